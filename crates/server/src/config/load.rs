//! Brings the layers of a configuration together.

use std::path::Path;

use figment::{
    Figment,
    providers::{Env, Serialized},
    value::{Dict, Map},
};

use super::{ConfigError, Section, check};

/// Prefix of the variables that override a store's settings.
pub const STORE_ENV: &str = "PONTOON_CONFIG_STORE_";
/// Prefix of the variables that override a placement member's settings.
pub const PLACEMENT_ENV: &str = "PONTOON_CONFIG_PLACEMENT_";

/// What overrides the settings of a file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Prefix of the variables that do. The rest of the name is the key, nested keys joined by `__`. It names the kind of
    /// process, so that one environment serves a whole cluster.
    pub prefix: &'static str,
    /// Settings given on the command line: `key=value`, nested keys joined by dots, the value in TOML or bare text.
    pub set: Vec<String>,
}

/// Loads the settings of a process: the file, then the environment, then `overrides`.
///
/// # Errors
/// [`ConfigError`] says which layer is wrong, and where.
pub fn load<T: Section>(file: Option<&Path>, overrides: &Overrides) -> Result<T, ConfigError> {
    let (text, origin) = match file {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
                path: path.to_owned(),
                source,
            })?;
            (text, path.display().to_string())
        }
        None => (String::new(), "configuration".to_owned()),
    };
    let from_file: T = parse(&text, &origin)?;

    let mut figment = Figment::from(Serialized::defaults(from_file));
    if !overrides.prefix.is_empty() {
        figment = figment.merge(Env::prefixed(overrides.prefix).split("__"));
    }
    for given in &overrides.set {
        figment = figment.merge(Layer::parse::<T>(given)?);
    }
    figment.extract().map_err(|error| {
        let origin = error
            .metadata
            .as_ref()
            .map_or_else(|| "configuration".to_owned(), |from| from.name.to_string());
        ConfigError::Value {
            origin: if error.path.is_empty() {
                origin
            } else {
                format!("{origin}, key `{}`", error.path.join("."))
            },
            message: error.kind.to_string(),
        }
    })
}

/// Reads settings from TOML text; `origin` names the text in errors.
///
/// # Errors
/// [`ConfigError`] with the line.
pub fn parse<T: Section>(text: &str, origin: &str) -> Result<T, ConfigError> {
    check::check_keys::<T>(text, origin)?;
    toml::from_str(text).map_err(|error| ConfigError::Value {
        origin: format!("{origin}, line {}", check::line_of(text, error.span())),
        message: error.message().to_owned(),
    })
}

/// One override as a layer of its own, so that errors can name it.
struct Layer {
    name: String,
    dict: Dict,
}

impl Layer {
    fn parse<T: Section>(given: &str) -> Result<Self, ConfigError> {
        let name = format!("--set {given}");
        let (key, value) = given.split_once('=').ok_or_else(|| ConfigError::Value {
            origin: name.clone(),
            message: "an override is written key=value".to_owned(),
        })?;
        let (key, value) = (key.trim(), value.trim());
        // What is not a TOML value is taken as text, so that `addr=127.0.0.1:1` needs no quotes.
        let text = if toml::from_str::<toml::Table>(&format!("x = {value}")).is_ok() {
            format!("{key} = {value}")
        } else {
            format!("{key} = {}", toml::Value::String(value.to_owned()))
        };
        check::check_keys::<T>(&text, &name)?;
        let dict = toml::from_str(&text).map_err(|error| ConfigError::Value {
            origin: name.clone(),
            message: error.message().to_owned(),
        })?;
        Ok(Self { name, dict })
    }
}

impl figment::Provider for Layer {
    fn metadata(&self) -> figment::Metadata {
        figment::Metadata::named(self.name.clone())
    }

    fn data(&self) -> figment::Result<Map<figment::Profile, Dict>> {
        Ok(Map::from([(figment::Profile::Default, self.dict.clone())]))
    }
}
