//! Refuses keys that no setting has, with the line and the key that was probably meant.

use std::{ops::Range, path::PathBuf};

use toml::de::{DeTable, DeValue};

use super::{Key, Section};

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The text is not TOML.
    #[error("{origin}, line {line}: not valid TOML: {message}")]
    Syntax {
        /// File name, or where else the text came from.
        origin: String,
        /// Line, from 1.
        line: usize,
        /// What the parser said.
        message: String,
    },
    /// A key that no setting has.
    #[error("{origin}, line {line}: unknown key `{key}`{}",
        .suggestion.as_ref().map(|near| format!(", did you mean `{near}`?")).unwrap_or_default())]
    UnknownKey {
        /// File name, or where else the text came from.
        origin: String,
        /// Line, from 1.
        line: usize,
        /// The key with the tables it stands in.
        key: String,
        /// The known key that is nearest, if one is near.
        suggestion: Option<String>,
    },
    /// A known key with a value that it cannot have, or a bad override.
    #[error("{origin}: {message}")]
    Value {
        /// File and line, variable, or option.
        origin: String,
        /// What is wrong with the value.
        message: String,
    },
}

/// Parses `text` for its keys alone and refuses the first one that `T` does not have.
pub(super) fn check_keys<T: Section>(text: &str, origin: &str) -> Result<(), ConfigError> {
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        origin: origin.to_owned(),
        line: line_of(text, error.span()),
        message: error.message().to_owned(),
    })?;
    check_table(table.get_ref(), &T::keys(), "", text, origin)
}

fn check_table(
    table: &DeTable<'_>,
    known: &[Key],
    prefix: &str,
    text: &str,
    origin: &str,
) -> Result<(), ConfigError> {
    for (name, value) in table {
        let Some(key) = known.iter().find(|key| key.name == name.get_ref()) else {
            let near = nearest(name.get_ref(), known.iter().map(|key| key.name));
            return Err(ConfigError::UnknownKey {
                origin: origin.to_owned(),
                line: line_of(text, Some(name.span())),
                key: format!("{prefix}{}", name.get_ref()),
                suggestion: near.map(|near| format!("{prefix}{near}")),
            });
        };
        if let (Some(keys), DeValue::Table(inner)) = (key.table, value.get_ref()) {
            check_table(
                inner,
                &keys(),
                &format!("{prefix}{}.", key.name),
                text,
                origin,
            )?;
        }
    }
    Ok(())
}

/// The line of a span's start, from 1.
pub(super) fn line_of(text: &str, span: Option<Range<usize>>) -> usize {
    let start = span.map_or(0, |span| span.start).min(text.len());
    1 + text.as_bytes()[..start]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
}

/// The candidate with the smallest edit distance to `word`, if it is near enough to be a slip: at most a third of the
/// letters, but two in any case.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let word = word.replace('-', "_");
    candidates
        .map(|candidate| (edit_distance(&word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 2.max(candidate.len() / 3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance: single-letter insertions, removals and replacements between the two.
fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, letter) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (column, other) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}
