//! Load generator: closed or open loop, against pontoon or etcd.
//!
//! A client is a task that has one request outstanding. In the closed loop it sends the next when the last was
//! answered; latency is what the client waits. In the open loop (`--rate`) requests have intended starts that do not
//! depend on the answers, and latency counts from there, so that a stall is charged to every request it delayed.

mod pattern;
mod report;
mod run;
mod target;

pub use report::{Latencies, Summary};
pub use run::{BenchArgs, run};
