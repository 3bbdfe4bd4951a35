//! Reads the tables in `facts/`.

use std::{collections::BTreeSet, fmt, fs, path::PathBuf};

const COLUMNS: &str = "kind,owner,name,number,type,ref,label,oneof,scope,rev";

/// What a row describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A method of a service.
    Method,
    /// A message.
    Message,
    /// A field of a message.
    Field,
    /// An enum.
    Enum,
    /// A value of an enum.
    Value,
}

/// Full name of something defined, with its kind, because a message and a field may share a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Protobuf package.
    pub package: String,
    kind: Kind,
    owner: String,
    name: String,
}

impl Key {
    pub fn new(package: &str, kind: Kind, owner: &str, name: &str) -> Self {
        let [package, owner, name] = [package, owner, name].map(str::to_owned);
        Self {
            package,
            kind,
            owner,
            name,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [&self.package, &self.owner, &self.name].map(String::as_str);
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        f.write_str(&parts.join("."))
    }
}

/// One row of a package table.
pub struct Row {
    pub key: Key,
    /// Number, type, ref, label, oneof.
    pub fact: [String; 5],
    /// The oldest clients we serve have it too.
    pub base: bool,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("facts")
}

/// Every package table: its package and its lines after the heading.
fn package_tables() -> Vec<(String, Vec<Vec<String>>)> {
    let mut tables = Vec::new();
    for entry in fs::read_dir(folder()).expect("facts/ is part of the package") {
        let path = entry.expect("facts/ can be listed").path();
        if path.extension().is_none_or(|extension| extension != "csv") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a table is UTF-8");
        let Some(lines) = text.strip_prefix(COLUMNS) else {
            continue;
        };
        let package = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .expect("a package has a plain name");
        tables.push((
            package.to_owned(),
            lines.lines().skip(1).map(cells).collect(),
        ));
    }
    tables
}

/// The packages that have a table.
pub fn packages() -> BTreeSet<String> {
    package_tables()
        .into_iter()
        .map(|(package, _)| package)
        .collect()
}

/// All rows of all package tables.
pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (package, lines) in package_tables() {
        for line in lines {
            let [
                kind,
                owner,
                name,
                number,
                r#type,
                reference,
                label,
                oneof,
                _scope,
                rev,
            ] = line.try_into().expect("a row has ten columns");
            let kind = match kind.as_str() {
                "method" => Kind::Method,
                "message" => Kind::Message,
                "field" => Kind::Field,
                "enum" => Kind::Enum,
                "value" => Kind::Value,
                other => panic!("a row of {package} has kind {other:?}"),
            };
            rows.push(Row {
                key: Key::new(&package, kind, &owner, &name),
                fact: [number, r#type, reference, label, oneof],
                base: rev == "base",
            });
        }
    }
    rows
}

/// Package, service and name of every method in `rpcs.csv`.
pub fn served() -> Vec<[String; 3]> {
    let text =
        fs::read_to_string(folder().join("rpcs.csv")).expect("rpcs.csv is part of the package");
    let methods: Vec<[String; 3]> = text
        .lines()
        .skip(1)
        .map(|line| {
            let cells = cells(line);
            [1, 2, 3].map(|column| cells[column].clone())
        })
        .collect();
    assert!(
        methods.len() >= 60,
        "only {} methods were read",
        methods.len()
    );
    methods
}

/// Splits one line of CSV. Quoted cells may hold commas; none holds a quote or a line break.
fn cells(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    for character in line.chars() {
        match character {
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            _ => cells
                .last_mut()
                .expect("there is always a cell")
                .push(character),
        }
    }
    cells
}
