//! What people write: keys and overrides on the command line, settings in files, spans of time and sizes, files of rules.
//!
//! What is read can be printed and read again, to the same.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use crate::cli::{key, rule};
use crate::config::{self, Overrides, Section, Size, Span};
use crate::{Input, Seeds};

config::section! {
    /// Settings of every kind that those of processes have.
    pub struct Settings {
        /// A text.
        pub addr: String = "127.0.0.1:1".to_owned(),
        /// Several of them.
        pub members: Vec<String> = Vec::new(),
        /// A number.
        pub count: u32 = 4,
        /// Yes or no.
        pub enabled: bool = true,
        /// A share.
        pub share: f64 = 0.5,
    }
    sections {
        /// A table.
        pub log: Log,
    }
}

config::section! {
    /// A table in them.
    pub struct Log {
        /// A span of time.
        pub patience: Span = Span::secs(10),
        /// A size.
        pub bytes_max: Size = Size::mib(8),
    }
}

const RULES: &str = r#"
version = 3
[[group]]
name = "pins"
index = 1
[[group.rule]]
id = "ssd"
start = "b\\x00"
role = "voter"
count = 3
location_labels = ["zone"]
[[group.rule.constraint]]
label = "disk"
in = ["ssd"]
[[group.rule.constraint]]
label = "old"
exists = false
"#;

/// One run.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.pick(7);
    let Ok(text) = std::str::from_utf8(input.rest()) else {
        let printed = key::escape(data);
        assert_eq!(key::unescape(&printed).ok().as_deref(), Some(data));
        return;
    };
    match kind {
        0 => keys(text),
        1 => settings(text),
        2 => overrides(text),
        3 => shown::<Span>(text),
        4 => shown::<Size>(text),
        5 => rules(text),
        _ => assert!(!key::escape_boundary(data, "+inf").is_empty()),
    }
}

/// Examples of each kind.
pub fn seeds() -> Seeds {
    let settings = "\x01addr = \"a:1\"\nmembers = [\"b:2\", 'c:3']\ncount = 0x10\nshare = 1e-3\n[log]\npatience = \"1h 30m\"\nbytes_max = \"64MiB\"\n";
    vec![
        ("key", br"_user/1\x00\xFF\n\\".to_vec()),
        ("hex", b"_0x00fF".to_vec()),
        ("settings", settings.into()),
        ("unknown", b"\x01adr = 1\nlog.patiense = 2\n".to_vec()),
        (
            "override",
            b"\x02log.patience=5s\ncount = 7\naddr=x:1".to_vec(),
        ),
        ("span", b"\x031day 2h 500ms 7ns".to_vec()),
        ("size", b"\x041.5 GiB".to_vec()),
        ("rules", [b"\x05", RULES.as_bytes()].concat()),
        ("json-rules", b"\x05{\"version\":1,\"group\":[{\"name\":\"g\",\"index\":2,\"rule\":[{\"id\":\"r\",\"keys\":\"raw\",\"end\":\"b\",\"role\":\"leader\",\"count\":1}]}]}".to_vec()),
    ]
    .into_iter()
    .map(|(name, mut seed): (_, Vec<u8>)| {
        if seed[0] == b'_' {
            seed[0] = 0;
        }
        (name, seed)
    })
    .collect()
}

fn keys(text: &str) {
    for hex in [false, true] {
        let Ok(bytes) = key::read(text, hex) else {
            continue;
        };
        let printed = key::escape(&bytes);
        assert!(printed.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        assert_eq!(key::unescape(&printed).ok(), Some(bytes));
    }
}

fn settings(text: &str) {
    match config::parse::<Settings>(text, "a file") {
        Ok(settings) => {
            let printed = config::to_toml(&settings);
            let again = config::parse::<Settings>(&printed, "printed").expect("it was printed");
            // What is no number is not equal to itself.
            assert!(again == settings || settings.share.is_nan());
        }
        Err(error) => assert!(error.to_string().starts_with("a file, line ")),
    }
}

/// A file of rules.
fn rules(text: &str) {
    for api_version in [1, 2] {
        match rule::read(text, api_version) {
            Ok((version, groups)) => {
                let shown = rule::show(version, groups.clone(), api_version);
                let again = rule::read(&shown, api_version);
                assert_eq!(again, Ok((version, groups)), "{shown}");
            }
            Err(why) => assert!(!why.is_empty()),
        }
    }
}

fn overrides(text: &str) {
    let overrides = Overrides {
        prefix: "",
        set: text.lines().take(4).map(str::to_owned).collect(),
    };
    if let Err(error) = config::load::<Settings>(None, &overrides) {
        assert!(!error.to_string().is_empty());
    }
    assert!(!Settings::keys().is_empty());
}

fn shown<T: FromStr + Display + Debug + PartialEq>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let printed = value.to_string();
        assert_eq!(printed.parse().ok(), Some(value), "{text:?}, {printed:?}");
    }
}
