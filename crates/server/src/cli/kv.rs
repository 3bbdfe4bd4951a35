//! `pontoon kv`: single keys, for looking and for scripts.

use std::{
    io::{Read, Write},
    path::PathBuf,
    time::Duration,
};

use bytes::Bytes;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Shown, Target, key};
use crate::{
    exit::{Failure, Kind, Result},
    output::{self, Format},
};

/// Read and write single keys.
///
/// Keys and values are text, other bytes as \xNN; --hex takes keys in hexadecimal.
#[derive(Debug, Args)]
pub struct KvArgs {
    #[command(subcommand)]
    command: Command,
    /// Keys are in hexadecimal, with or without 0x in front
    #[arg(long, global = true)]
    hex: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a key's value
    Get {
        /// The key
        key: String,
        /// Print the value's bytes as they are, with nothing added
        #[arg(long)]
        raw: bool,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
    /// Write a key
    Put {
        /// The key
        key: String,
        /// The value; - reads it from standard input
        #[arg(required_unless_present = "file")]
        value: Option<String>,
        /// Take the value's bytes from a file
        #[arg(long, conflicts_with = "value")]
        file: Option<PathBuf>,
        /// Remove the key after so long (api version 2 only)
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        ttl: Option<Duration>,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
    /// Remove a key
    Del {
        /// The key
        key: String,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
    /// Print keys in order
    Scan {
        /// First key [default: the very first]
        start: Option<String>,
        /// First key after the range [default: none]
        #[arg(long, value_name = "KEY")]
        end: Option<String>,
        /// Only keys that begin so
        #[arg(long, value_name = "KEY", conflicts_with_all = ["start", "end"])]
        prefix: Option<String>,
        /// Keys at most
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        /// Leave the values out
        #[arg(long)]
        keys_only: bool,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
}

/// A key and its value as they are printed.
#[derive(Serialize)]
struct Pair {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

/// What a write prints.
#[derive(Serialize)]
struct Written {
    key: String,
    done: bool,
}

/// Runs the command.
///
/// # Errors
/// A key is malformed, the cluster is not there or refuses, or the key to get does not exist.
pub async fn run(args: KvArgs) -> Result<()> {
    let hex = args.hex;
    match args.command {
        Command::Get {
            key,
            raw,
            target,
            shown,
        } => {
            let key = key::read(&key, hex)?;
            let printed = key::escape(&key);
            let value = target.keys().await?.get(key.into()).await?;
            let value = value.ok_or_else(|| {
                Failure::new(Kind::NotFound, format!("there is no key `{printed}`"))
            })?;
            if raw {
                return std::io::stdout()
                    .write_all(&value)
                    .map_err(|error| Failure::environment("cannot print the value", error));
            }
            let pair = Pair {
                key: printed,
                value: Some(key::escape(&value)),
            };
            output::print(shown.output, &pair, |pair| {
                // An empty value is a line as well.
                format!("{}\n", pair.value.as_deref().unwrap_or_default())
            })?;
        }
        Command::Put {
            key,
            value,
            file,
            ttl,
            target,
            shown,
        } => {
            let key = key::read(&key, hex)?;
            let value = read_value(value, file)?;
            let written = Written {
                key: key::escape(&key),
                done: true,
            };
            target.keys().await?.put(key.into(), value, ttl).await?;
            confirm(&shown, &written)?;
        }
        Command::Del { key, target, shown } => {
            let key = key::read(&key, hex)?;
            let written = Written {
                key: key::escape(&key),
                done: true,
            };
            target.keys().await?.delete(key.into()).await?;
            confirm(&shown, &written)?;
        }
        Command::Scan {
            start,
            end,
            prefix,
            limit,
            keys_only,
            target,
            shown,
        } => {
            let read =
                |text: Option<String>| text.map_or(Ok(Vec::new()), |text| key::read(&text, hex));
            let (start, end) = match prefix {
                Some(prefix) => {
                    let prefix = key::read(&prefix, hex)?;
                    let end = after_prefix(&prefix);
                    (prefix, end)
                }
                None => (read(start)?, read(end)?),
            };
            let pairs: Vec<Pair> = target
                .keys()
                .await?
                .scan(start.into(), end.into(), limit, keys_only)
                .await?
                .into_iter()
                .map(|(key, value)| Pair {
                    key: key::escape(&key),
                    value: (!keys_only).then(|| key::escape(&value)),
                })
                .collect();
            output::print(shown.output, &pairs, |pairs| {
                pairs
                    .iter()
                    .map(|pair| match &pair.value {
                        Some(value) => format!("{}\t{value}\n", pair.key),
                        None => format!("{}\n", pair.key),
                    })
                    .collect()
            })?;
        }
    }
    Ok(())
}

/// Writes are silent for people, as is usual; programs get a document.
fn confirm(shown: &Shown, written: &Written) -> Result<()> {
    if shown.output == Format::Json {
        output::print(shown.output, written, |_| String::new())?;
    }
    Ok(())
}

fn read_value(value: Option<String>, file: Option<PathBuf>) -> Result<Bytes> {
    match (value.as_deref(), file) {
        (Some("-"), _) => {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes).map_err(|error| {
                Failure::environment("cannot read the value from standard input", error)
            })?;
            Ok(bytes.into())
        }
        (Some(text), _) => Ok(key::unescape(text)?.into()),
        (None, Some(path)) => std::fs::read(&path).map(Bytes::from).map_err(|error| {
            Failure::environment(format!("cannot read {}", path.display()), error)
        }),
        (None, None) => Err(Failure::new(Kind::Usage, "no value was given")),
    }
}

/// The first key after all that begin with `prefix`; empty if there is none.
pub fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}
