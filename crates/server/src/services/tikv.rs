//! `tikvpb.Tikv`, served by stores.
