//! The structure of the source tree: format, lints, docs, the dependency arrows between packages,
//! `unsafe` in `engine` only, file length, and versions in the lock file below which known faults lie.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Packages and those of ours that each may depend on (the table of responsibilities in ARCHITECTURE.md). Tests may
/// depend on more, so only normal and build dependencies count.
const ARROWS: [(&str, &[&str]); 14] = [
    ("proto", &[]),
    ("raft", &[]),
    ("engine", &[]),
    ("store", &["raft", "engine", "proto"]),
    ("transport", &["proto"]),
    ("placement", &["proto", "store"]),
    ("client", &["proto"]),
    ("history", &[]),
    ("workload", &["client", "history"]),
    (
        "server",
        &[
            "proto",
            "raft",
            "engine",
            "store",
            "transport",
            "placement",
            "client",
            "workload",
        ],
    ),
    (
        "sim",
        &["proto", "raft", "engine", "store", "placement", "history"],
    ),
    (
        "tests",
        &["server", "client", "placement", "proto", "workload"],
    ),
    (
        "benches",
        &[
            "proto",
            "raft",
            "engine",
            "store",
            "transport",
            "placement",
            "client",
            "server",
        ],
    ),
    ("protoc", &[]),
];

/// Packages that compile no C++, spawn no threads by themselves and read no clock: what they must not pull in.
const PURE: [&str; 6] = ["raft", "store", "placement", "sim", "proto", "history"];
const IMPURE: [&str; 4] = ["tokio", "rocksdb", "librocksdb-sys", "axum"];

/// Packages with a workspace of their own.
const OUTSIDE: [&str; 4] = [
    "benches/peers",
    "crates/server/protoc",
    "tests/fuzz",
    "tests/tikv-client",
];

/// Lines of a file at most.
const LINES_MAX: usize = 1000;

/// Versions in the lock file below which a fault is known that would reach us.
const FLOORS: [(&str, &str, &str); 7] = [
    (
        "tokio",
        "1.44.2",
        "RUSTSEC-2025-0023: broadcast channel clones values without synchronization",
    ),
    ("h2", "0.4.4", "RUSTSEC-2024-0332: CONTINUATION floods"),
    (
        "hyper",
        "1.0.0",
        "the HTTP stack that tonic 0.14 is built on",
    ),
    (
        "crossbeam-channel",
        "0.5.15",
        "RUSTSEC-2025-0024: double free on drop",
    ),
    (
        "bytes",
        "1.11.1",
        "RUSTSEC-2026-0007: integer overflow in reserve",
    ),
    ("ring", "0.17.12", "RUSTSEC-2025-0009: panic on overflow"),
    (
        "tracing-subscriber",
        "0.3.20",
        "RUSTSEC-2025-0055: escape sequences of others reach the terminal",
    ),
];

/// Crates of which there may be one version only: two would give types that look alike and do not fit.
const SINGLE: [&str; 6] = [
    "prost",
    "tonic",
    "tokio",
    "bytes",
    "rocksdb",
    "librocksdb-sys",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this package is a folder of the repository")
        .to_owned()
}

/// Runs cargo in the repository and fails with what it printed. Everything that links RocksDB is compiled in the release
/// profile, so that its one build serves here, too.
fn cargo(args: &[&str], variables: &[(&str, &str)]) {
    let output = Command::new(env!("CARGO"))
        .args(args)
        .envs(variables.iter().copied())
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo {} failed:\n{}{}",
        args.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Files of the repository that end so, wherever they are: as git lists them, or all if there is no git here.
fn sources(ending: &str) -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root())
        .output();
    let mut files: Vec<PathBuf> = match listed {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
            .split('\0')
            .map(|path| root().join(path))
            .collect(),
        _ => {
            let mut files = Vec::new();
            walk(&root(), &mut files);
            files
        }
    };
    files.retain(|path| path.is_file() && path.to_string_lossy().ends_with(ending));
    assert!(!files.is_empty(), "no {ending} in {}", root().display());
    files
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder)
        .expect("folders are readable")
        .flatten()
    {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && name != ".git" {
            walk(&path, files);
        } else {
            files.push(path);
        }
    }
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo prints JSON")
}

/// Dependencies of each package that are compiled into it, tests aside.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("there are packages");
    packages
        .iter()
        .map(|package| {
            let depends = package["dependencies"].as_array().expect("a list");
            let names = depends
                .iter()
                .filter(|dependency| dependency["kind"].as_str() != Some("dev"))
                .map(|dependency| text(&dependency["name"]))
                .collect();
            (text(&package["name"]), names)
        })
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

#[test]
fn the_format_is_that_of_rustfmt() {
    cargo(&["fmt", "--all", "--check"], &[]);
    for package in OUTSIDE {
        let manifest = format!("{package}/Cargo.toml");
        cargo(&["fmt", "--check", "--manifest-path", &manifest], &[]);
    }
}

/// Packages that commands for the whole workspace do not see are known, and so looked at one by one.
#[test]
fn packages_outside_the_workspace_are_listed() {
    let folder = |manifest: PathBuf| {
        let text = fs::read_to_string(&manifest).expect("manifests are UTF-8");
        let folder = manifest.parent().expect("it is a file").to_owned();
        let own = text.lines().any(|line| line == "[workspace]") && folder != root();
        let inside = folder.strip_prefix(root()).expect("in the repository");
        own.then(|| inside.to_string_lossy().into_owned())
    };
    let found: BTreeSet<String> = sources("/Cargo.toml")
        .into_iter()
        .filter_map(folder)
        .collect();
    assert_eq!(found, OUTSIDE.map(String::from).into());
}

#[test]
fn clippy_and_rustdoc_have_nothing_to_say() {
    // One after the other: they share the build folder.
    cargo(
        &[
            "clippy",
            "--release",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ],
        &[],
    );
    cargo(
        &["doc", "--release", "--workspace", "--no-deps", "--quiet"],
        &[("RUSTDOCFLAGS", "-D warnings")],
    );
    // What is compiled for tests of the engine only.
    let engine = ["--release", "-p", "engine", "--features", "fault-env"];
    let lints = ["--all-targets", "--quiet", "--", "-D", "warnings"];
    cargo(&[&["clippy"], &engine[..], &lints].concat(), &[]);
    cargo(
        &[&["doc"], &engine[..], &["--no-deps", "--quiet"]].concat(),
        &[("RUSTDOCFLAGS", "-D warnings")],
    );
}

#[test]
fn packages_depend_on_those_below_them_only() {
    let ours: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    for (package, depends) in dependencies() {
        let (_, allowed) = ARROWS
            .iter()
            .find(|(name, _)| *name == package)
            .unwrap_or_else(|| panic!("package {package} has no place in the table of arrows"));
        for other in depends.iter().filter(|other| ours.contains(&***other)) {
            assert!(
                allowed.contains(&&**other),
                "{package} depends on {other}; it may depend on {allowed:?}"
            );
        }
        if PURE.contains(&&*package) {
            for other in IMPURE {
                assert!(
                    !depends.contains(other),
                    "{package} must not depend on {other}"
                );
            }
        }
    }
}

/// What `cargo tree` prints of the packages that `selection` means.
fn cargo_tree(selection: &[&str], edges: &str, prefix: &str, format: &str) -> String {
    let output = Command::new(env!("CARGO"))
        .arg("tree")
        .args(selection)
        .args(["--edges", edges, "--prefix", prefix, "--format", format])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

/// Crates below RocksDB's bindings with their features, as one command resolves them.
fn below_rocksdb(selection: &[&str]) -> BTreeSet<String> {
    let text = cargo_tree(selection, "normal,build", "depth", "|{p}|{f}|");

    // A subtree is printed once; later occurrences are marked and have no children. So edges are gathered by name.
    let mut children: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut path: Vec<String> = Vec::new();
    for line in text.lines() {
        let Some((depth, rest)) = line.split_once('|') else {
            continue;
        };
        let Ok(depth) = depth.parse::<usize>() else {
            continue;
        };
        let name = rest.rsplit_once('|').map_or(rest, |(name, _)| name);
        path.truncate(depth);
        if let Some(parent) = path.last() {
            children
                .entry(parent.clone())
                .or_default()
                .insert(name.to_owned());
        }
        path.push(name.to_owned());
    }
    let mut found: BTreeSet<String> = BTreeSet::new();
    let mut open: Vec<String> = children
        .keys()
        .filter(|name| name.starts_with("librocksdb-sys "))
        .cloned()
        .collect();
    while let Some(name) = open.pop() {
        if found.insert(name.clone()) {
            open.extend(children.get(&name).into_iter().flatten().cloned());
        }
    }
    assert!(
        found.len() > 20,
        "RocksDB is not below {selection:?}: {found:?}"
    );
    found
}

#[test]
fn rocksdb_is_compiled_once_for_all_commands() {
    // Cargo compiles it again when a feature of anything below it differs; features are united over the packages of one
    // command. crates/engine/Cargo.toml pins the union.
    let alone = below_rocksdb(&["-p", "engine", "--features", "rocksdb"]);
    let linked = [
        "-p",
        "engine",
        "-p",
        "server",
        "-p",
        "tests",
        "--features",
        "engine/rocksdb",
    ];
    let powerless = ["-p", "engine", "--features", "fault-env"];
    for selection in [&["-p", "server"][..], &powerless, &linked, &["--workspace"]] {
        let other = below_rocksdb(selection);
        let differing: Vec<&String> = alone.symmetric_difference(&other).collect();
        assert!(
            differing.is_empty(),
            "{selection:?} compiles RocksDB anew, because of {differing:#?}"
        );
    }
}

/// `cargo test -p raft -p sim`, of which the README speaks, needs no compiler of C or C++.
#[test]
fn consensus_is_tested_without_cpp() {
    let selection = ["-p", "raft", "-p", "store", "-p", "sim"];
    let text = cargo_tree(&selection, "normal,build,dev", "none", "{p}");
    assert!(text.contains("stateright "), "tests are among them");
    for line in text.lines() {
        let name = line.split(' ').next().unwrap_or_default();
        assert!(
            !["cc", "cmake", "librocksdb-sys", "bindgen"].contains(&name),
            "{selection:?} need {line}"
        );
    }
}

#[test]
fn only_engine_is_unsafe() {
    let forms = ["{", "fn ", "impl ", "trait ", "extern "].map(|after| format!("unsafe {after}"));
    for file in sources(".rs") {
        let inside = file
            .strip_prefix(root())
            .expect("sources are in the repository");
        if inside.starts_with("crates/engine") {
            continue;
        }
        let text = fs::read_to_string(&file).expect("sources are UTF-8");
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            // This file names what it looks for.
            let own = inside == Path::new("tests/tests/tidy.rs");
            assert!(
                own || !forms.iter().any(|form| code.contains(form.as_str())),
                "{}:{}: `unsafe` outside of engine",
                inside.display(),
                number + 1
            );
        }
    }
}

#[test]
fn files_have_one_subject() {
    for file in sources(".rs") {
        let lines = fs::read_to_string(&file)
            .expect("sources are UTF-8")
            .lines()
            .count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines", file.display());
    }
}

/// Words that a document puts into backticks or alone into a cell of a table, outside of blocks of code.
fn cited(document: &str) -> BTreeSet<&str> {
    let prose = document.split("```").step_by(2);
    let mut names = BTreeSet::new();
    for text in prose {
        names.extend(text.split('`').skip(1).step_by(2));
        names.extend(text.split(['|', ',']).map(str::trim));
    }
    names
}

/// Whether a word can only be a name from the source: several parts, joined.
fn is_name(word: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    word.split('_').count() > 2 && word.split('_').all(part)
}

/// Whether a word is the path of a file, or the end of one.
fn is_path(word: &str) -> bool {
    let endings = [
        ".rs", ".txt", ".proto", ".csv", ".sh", ".py", ".toml", ".md",
    ];
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-./".contains(&byte);
    word.bytes().all(plain)
        && endings
            .iter()
            .any(|ending| word.len() > ending.len() && word.ends_with(ending))
}

/// Tests, functions and files that documents name are there: who changes one changes the other.
#[test]
fn documents_name_what_exists() {
    let inside = |path: PathBuf| {
        let path = path.strip_prefix(root()).expect("in the repository");
        format!("/{}", path.display())
    };
    let files: Vec<String> = sources("").into_iter().map(inside).collect();
    let code: String = [".rs", ".py", ".sh", "Makefile"]
        .into_iter()
        .flat_map(sources)
        .map(|path| fs::read_to_string(path).expect("sources are UTF-8"))
        .collect();
    let (mut names, mut missing) = (0, BTreeSet::new());
    for document in sources(".md") {
        let text = fs::read_to_string(&document).expect("documents are UTF-8");
        for word in cited(&text) {
            let exists = if is_name(word) {
                code.contains(word)
                    || files
                        .iter()
                        .any(|file| file.ends_with(&format!("/{word}.txt")))
            } else if is_path(word) && word != "scripts/x.txt" {
                files.iter().any(|file| file.ends_with(&format!("/{word}")))
            } else {
                continue;
            };
            names += 1;
            if !exists {
                missing.insert(format!("{}: {word}", document.display()));
            }
        }
    }
    assert!(names > 200, "only {names} names");
    assert!(missing.is_empty(), "named and not there: {missing:#?}");
}

#[test]
fn nothing_is_left_unfinished() {
    // In pieces, so that this file does not find itself.
    let marks = ["todo", "unimplemented"].map(|name| format!("{name}!("));
    let ignored = format!("#[{}", "ignore");
    for file in sources(".rs") {
        let text = fs::read_to_string(&file).expect("sources are UTF-8");
        for mark in marks.iter().chain([&ignored]) {
            assert!(
                !text.contains(mark.as_str()),
                "{} has {mark}",
                file.display()
            );
        }
    }
}

#[test]
fn the_lock_file_has_no_version_with_known_faults() {
    let text = fs::read_to_string(root().join("Cargo.lock")).expect("the lock file is committed");
    let lock: toml::Table = text.parse().expect("the lock file is TOML");
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in lock["package"].as_array().expect("a list") {
        let field = |name: &str| package[name].as_str().expect("a string");
        versions
            .entry(field("name"))
            .or_default()
            .push(field("version"));
    }
    for (name, floor, why) in FLOORS {
        for version in versions.get(name).into_iter().flatten() {
            assert!(
                parts(version) >= parts(floor),
                "{name} {version} is below {floor}: {why}"
            );
        }
    }
    for name in SINGLE {
        let found = versions.get(name).map_or(&[][..], Vec::as_slice);
        assert!(
            found.len() <= 1,
            "{name} is there more than once: {found:?}"
        );
    }
}

/// The numbers of a version, for comparison.
fn parts(version: &str) -> Vec<u64> {
    version
        .split(['+', '-'])
        .next()
        .unwrap_or_default()
        .split('.')
        .map(|part| {
            part.parse()
                .unwrap_or_else(|_| panic!("{version} is no version"))
        })
        .collect()
}

#[test]
fn versions_compare_by_number() {
    assert!(parts("1.10.0") > parts("1.9.3"));
    assert!(parts("0.19.0+11.8.1") == parts("0.19.0"));
}
