//! Options that every command shares which talks to a cluster.

use clap::Args;

use crate::{
    exit::Result,
    output::Format,
    remote::{Keys, Remote},
};

/// Which cluster.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// Addresses of placement members, separated by commas; one that answers is enough
    #[arg(
        long,
        env = "PONTOON_PLACEMENT",
        value_name = "ADDR[,ADDR]",
        value_delimiter = ',',
        default_value = "127.0.0.1:2379"
    )]
    pub placement: Vec<String>,
}

impl Target {
    /// A connection to the placement group, made when it is first used.
    pub fn remote(&self) -> Remote {
        Remote::new(&self.placement)
    }

    /// A client for keys and values.
    ///
    /// # Errors
    /// The cluster is not there.
    pub async fn keys(&self) -> Result<Keys> {
        Keys::connect(&self.placement).await
    }
}

/// How to print.
#[derive(Clone, Debug, Args)]
pub struct Shown {
    /// Form of the output
    #[arg(long, value_enum, default_value = "table")]
    pub output: Format,
}
