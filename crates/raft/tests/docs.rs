//! `docs/raft.md` names functions and tests; they must exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn crate_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn document() -> String {
    fs::read_to_string(crate_folder().join("../../docs/raft.md")).expect("docs/raft.md is there")
}

/// What stands in backticks.
fn names(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The text of `file`, from the sources or the tests, and whether it is a test.
fn source(file: &str) -> Option<(String, bool)> {
    let folder = crate_folder();
    let read = |path: &Path| fs::read_to_string(path).ok();
    let is_test = file.ends_with("/tests.rs");
    read(&folder.join("src").join(file))
        .map(|text| (text, is_test))
        .or_else(|| read(&folder.join("tests").join(file)).map(|text| (text, true)))
}

/// Whether `text` defines `function`, as a test if `test`.
fn defines(text: &str, function: &str, test: bool) -> bool {
    let head = format!("fn {function}(");
    let generic = format!("fn {function}<");
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    lines.iter().enumerate().any(|(number, line)| {
        let found = line.contains(&head) || line.contains(&generic);
        found
            && (!test
                || lines[..number]
                    .iter()
                    .rev()
                    .take(3)
                    .any(|before| *before == "#[test]"))
    })
}

fn is_reference(name: &str) -> Option<(&str, &str)> {
    name.split_once("::")
        .filter(|(file, _)| file.ends_with(".rs"))
}

#[test]
fn names_in_raft_md_exist() {
    let document = document();
    let mut missing = BTreeSet::new();
    let mut seen = 0;
    for name in names(&document) {
        if let Some((file, function)) = is_reference(name) {
            seen += 1;
            let found = source(file).is_some_and(|(text, test)| defines(&text, function, test));
            if !found {
                missing.insert(name.to_owned());
            }
        } else if name.starts_with("scripts/") && name != "scripts/x.txt" {
            seen += 1;
            if !crate_folder().join("tests").join(name).is_file() {
                missing.insert(name.to_owned());
            }
        } else if let Some(file) = name.strip_suffix(".rs")
            && !crate_folder()
                .join("src")
                .join(format!("{file}.rs"))
                .is_file()
        {
            missing.insert(name.to_owned());
        }
    }
    assert!(
        missing.is_empty(),
        "docs/raft.md names what does not exist: {missing:#?}"
    );
    assert!(seen > 100, "only {seen} names");
}

/// A rule without a function that keeps it, or without a test that would fail, is a wish.
#[test]
fn every_rule_names_its_function_and_its_test() {
    let document = document();
    let paragraphs: Vec<&str> = document.split("\n\n").collect();
    let mut rules = 0;
    for (number, paragraph) in paragraphs.iter().enumerate() {
        if paragraph.starts_with("**Rule:") {
            let followed = paragraphs[number + 1..]
                .iter()
                .take_while(|next| !next.starts_with("**Rule:") && !next.starts_with("## "))
                .any(|next| next.starts_with('→'));
            assert!(followed, "no names after: {paragraph}");
        }
        if !paragraph.starts_with('→') {
            continue;
        }
        rules += 1;
        let (built, held) = paragraph
            .split_once("held by")
            .unwrap_or_else(|| panic!("no test in: {paragraph}"));
        let functions = names(built).into_iter().filter_map(is_reference);
        assert!(
            functions
                .map(|(file, _)| source(file))
                .any(|text| text.is_some_and(|(_, test)| !test)),
            "no function in: {paragraph}"
        );
        let tests = names(held);
        let is_test = |name: &str| {
            name.starts_with("scripts/")
                || is_reference(name)
                    .is_some_and(|(file, _)| source(file).is_some_and(|(_, test)| test))
        };
        assert!(
            !tests.is_empty() && tests.iter().all(|name| is_test(name)),
            "not all tests: {paragraph}"
        );
    }
    assert!(rules >= 35, "only {rules} rules");
}

/// What the document must speak of, for someone who opens the code for the first time.
#[test]
fn every_topic_is_there() {
    let document = document().to_lowercase();
    for topic in [
        "roles and terms",
        "randomized timeouts",
        "one vote per term",
        "split vote",
        "time between failures",
        "consistency check",
        "only the own term is counted",
        "election restriction",
        "leader append-only",
        "log matching",
        "state machine safety",
        "two leaders cannot both act",
        "joint consensus",
        "from 3 to 5",
        "compaction and snapshots",
        "client redirect",
        "the leader dies",
        "a follower dies",
        "the network splits",
        "a peer is slow",
        "a deposed leader speaks",
        "```mermaid",
    ] {
        assert!(
            document.contains(topic),
            "docs/raft.md does not speak of {topic:?}"
        );
    }
}
