//! `pontoon.v1.Admin`, served by placement members.
