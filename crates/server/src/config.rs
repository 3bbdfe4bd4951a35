//! Configuration of the server processes: strict TOML, overridden by the environment and by the command line.
//!
//! A process's settings are a tree of structs written with `section!`. One text per setting, its doc comment, serves
//! three readers: rustdoc, `pontoon config show --defaults`, and the check that refuses unknown keys; so the three
//! cannot drift apart.
//!
//! Three layers, the later one wins: the file, variables `PONTOON_CONFIG_STORE_<KEY>` or
//! `PONTOON_CONFIG_PLACEMENT_<KEY>` (nested keys joined by `__`), and
//! `--set key=value` on the command line. What no layer names has its default.

mod check;
mod load;
mod schema;
mod show;
mod value;

#[cfg(test)]
mod tests;

pub use check::ConfigError;
pub use load::{Overrides, PLACEMENT_ENV, STORE_ENV, load, parse};
pub use schema::{Key, Section};
pub use show::{show_defaults, to_toml};
pub use value::{Size, Span};

pub(crate) use schema::section;
