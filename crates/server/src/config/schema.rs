//! The macro that turns a commented struct into a documented table of settings.

use serde::{Serialize, de::DeserializeOwned};

/// One setting, or one table of settings, as its struct declares it.
pub struct Key {
    /// Name in the file.
    pub name: &'static str,
    /// Lines of its doc comment: unit, effect, what the extremes do.
    pub docs: &'static [&'static str],
    /// The keys of a table; `None` for a plain setting.
    pub table: Option<fn() -> Vec<Key>>,
}

/// A table of settings. Implemented by `section!` only.
pub trait Section: Default + Serialize + DeserializeOwned {
    /// Lines of the struct's doc comment.
    const DOCS: &'static [&'static str];

    /// All keys, in the order of declaration.
    fn keys() -> Vec<Key>;
}

/// Declares a struct of settings with its defaults:
///
/// ```text
/// section! {
///     /// What the table is about.
///     pub struct RaftConfig {
///         /// Time between heartbeats. Lower finds a dead leader sooner and costs more messages.
///         pub heartbeat: Span = Span::millis(100),
///     }
///     sections {
///         /// A nested table, itself declared with `section!`.
///         pub log: LogConfig,
///     }
/// }
/// ```
///
/// The struct derives `Clone`, `Debug`, `PartialEq`, `Serialize` and `Deserialize` (unknown fields refused, missing
/// ones at their default), and implements `Default` and [`Section`].
macro_rules! section {
    (
        $(#[doc = $doc:literal])*
        pub struct $name:ident {
            $(
                $(#[doc = $field_doc:literal])*
                pub $field:ident : $type:ty = $default:expr
            ),* $(,)?
        }
        $(sections {
            $(
                $(#[doc = $table_doc:literal])*
                pub $table:ident : $table_type:ty
            ),* $(,)?
        })?
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $(
                $(#[doc = $field_doc])*
                pub $field: $type,
            )*
            $($(
                $(#[doc = $table_doc])*
                pub $table: $table_type,
            )*)?
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $($field: $default,)*
                    $($($table: Default::default(),)*)?
                }
            }
        }

        impl $crate::config::Section for $name {
            const DOCS: &'static [&'static str] = &[$($doc),*];

            fn keys() -> Vec<$crate::config::Key> {
                vec![
                    $($crate::config::Key {
                        name: stringify!($field),
                        docs: &[$($field_doc),*],
                        table: None,
                    },)*
                    $($($crate::config::Key {
                        name: stringify!($table),
                        docs: &[$($table_doc),*],
                        table: Some(<$table_type as $crate::config::Section>::keys),
                    },)*)?
                ]
            }
        }
    };
}

pub(crate) use section;
