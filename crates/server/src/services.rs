//! gRPC services: the public interface of stores and of placement members, and our own for administration.

pub mod admin;
pub mod health;
pub mod pd;
pub mod pd_http;
pub mod replicas;
#[cfg(test)]
pub mod served;
pub mod tikv;
