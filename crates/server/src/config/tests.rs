use super::*;

section! {
    /// Settings for the tests.
    pub struct Sample {
        /// Folder.
        pub data_dir: String = "data".to_owned(),
        /// Addresses.
        pub members: Vec<String> = vec!["a:1".to_owned()],
    }
    sections {
        /// Consensus.
        pub raft: SampleRaft,
    }
}

section! {
    /// Consensus of the tests.
    pub struct SampleRaft {
        /// Time between heartbeats.
        pub heartbeat: Span = Span::millis(100),
        /// Bytes of one message at most.
        pub append_bytes_max: Size = Size::mib(1),
    }
}

fn error(text: &str) -> String {
    parse::<Sample>(text, "store.toml")
        .expect_err("must be refused")
        .to_string()
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_a_suggestion() {
    let message = error("data_dir = \"x\"\n\n[raft]\nheartbeet = \"1s\"\n");
    assert!(message.contains("store.toml, line 4"), "{message}");
    assert!(
        message.contains("unknown key `raft.heartbeet`, did you mean `raft.heartbeat`?"),
        "{message}"
    );
}

#[test]
fn a_dash_for_an_underscore_is_recognised() {
    let message = error("data-dir = \"x\"");
    assert!(message.contains("did you mean `data_dir`?"), "{message}");
}

#[test]
fn an_unknown_key_that_resembles_nothing_gets_no_suggestion() {
    let message = error("colour = 3");
    assert!(message.ends_with("unknown key `colour`"), "{message}");
}

#[test]
fn a_wrong_value_is_refused_with_its_line() {
    let message = error("\n[raft]\nheartbeat = \"soon\"");
    assert!(
        message.starts_with("store.toml, line 3: `soon` is not a span of time"),
        "{message}"
    );
    let message = error("members = 3");
    assert!(message.starts_with("store.toml, line 1:"), "{message}");
}

#[test]
fn broken_toml_is_refused_with_its_line() {
    let message = error("data_dir = \"x\"\nmembers = [");
    assert!(
        message.starts_with("store.toml, line 2: not valid TOML"),
        "{message}"
    );
}

#[test]
fn overrides_win_and_are_checked() {
    let load = |given: &str| {
        let set = vec![given.to_owned()];
        load::<Sample>(None, &Overrides { prefix: "", set })
    };
    assert_eq!(
        *load("raft.heartbeat=20ms").unwrap().raft.heartbeat,
        *Span::millis(20)
    );
    assert_eq!(
        load("raft.append_bytes_max=4096")
            .unwrap()
            .raft
            .append_bytes_max,
        Size::kib(4)
    );
    assert_eq!(load("members=[\"b:2\"]").unwrap().members, ["b:2"]);
    assert_eq!(
        load("data_dir=127.0.0.1:7").unwrap().data_dir,
        "127.0.0.1:7"
    );
    let message = load("raft.hartbeat=1s").unwrap_err().to_string();
    assert!(
        message.contains("did you mean `raft.heartbeat`?"),
        "{message}"
    );
    let message = load("raft.heartbeat=later").unwrap_err().to_string();
    assert!(message.contains("--set raft.heartbeat=later"), "{message}");
}

#[test]
fn shown_defaults_are_the_defaults_and_explain_every_key() {
    let shown = show_defaults::<Sample>();
    assert_eq!(parse::<Sample>(&shown, "shown").unwrap(), Sample::default());
    for line in [
        "# Folder.",
        "# Time between heartbeats.",
        "[raft]",
        "heartbeat = \"100ms\"",
        "append_bytes_max = \"1MiB\"",
    ] {
        assert!(
            shown.lines().any(|shown| shown == line),
            "{line} is missing in\n{shown}"
        );
    }
}

/// Of the processes themselves: what is shown is their default, and no setting is left unexplained.
#[test]
fn every_setting_of_a_process_is_shown_and_explained() {
    fn check<T: Section + PartialEq + std::fmt::Debug>() {
        let shown = show_defaults::<T>();
        assert_eq!(
            parse::<T>(&shown, "shown").unwrap(),
            T::default(),
            "{shown}"
        );
        explained(&T::keys(), "");
    }
    fn explained(keys: &[Key], path: &str) {
        for key in keys {
            let name = format!("{path}{}", key.name);
            assert!(!key.docs.is_empty(), "{name} is not explained");
            if let Some(inner) = key.table {
                explained(&inner(), &format!("{name}."));
            }
        }
    }
    check::<crate::placement_process::PlacementConfig>();
    check::<crate::store_process::StoreConfig>();
}

#[test]
fn settings_survive_being_written() {
    let sample = Sample {
        data_dir: "with \"quotes\"".to_owned(),
        raft: SampleRaft {
            heartbeat: Span::millis(1500),
            append_bytes_max: Size(1000),
        },
        ..Sample::default()
    };
    assert_eq!(
        parse::<Sample>(&to_toml(&sample), "written").unwrap(),
        sample
    );
}
