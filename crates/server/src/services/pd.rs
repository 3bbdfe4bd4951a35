//! `pdpb.PD`, served by placement members.
