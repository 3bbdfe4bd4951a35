use clap::CommandFactory;

use super::*;

fn parse(line: &str) -> Result<Args, clap::Error> {
    Args::try_parse_from(line.split_whitespace())
}

#[test]
fn the_definition_is_consistent() {
    Args::command().debug_assert();
}

#[test]
fn commands_of_the_documentation_are_accepted() {
    for line in [
        "pontoon dev --dir /tmp/x --stores 3 --placements 3 --port-offset 100 --api-version 2 --detach",
        "pontoon dev --dir /tmp/x stop",
        "pontoon dev --dir /tmp/x kill store-1",
        "pontoon dev --dir /tmp/x restart store-1",
        "pontoon dev --dir /tmp/x add-store",
        "pontoon dev --dir /tmp/x status --output json",
        "pontoon dev status --dir /tmp/x",
        "pontoon serve placement --config p.toml",
        "pontoon serve store --config s.toml --set addr=127.0.0.1:1",
        "pontoon config show --defaults",
        "pontoon config show store --config s.toml",
        "pontoon status --placement 127.0.0.1:2379,127.0.0.1:2380 --output json",
        "pontoon store list",
        "pontoon store drain 3",
        "pontoon store undrain 3",
        "pontoon store remove 3",
        "pontoon store label 3 zone=a disk=",
        "pontoon store explain 5 --limit 20 --output json",
        "pontoon region explain 4",
        "pontoon operator list",
        "pontoon operator history --output json",
        "pontoon operator show 7",
        "pontoon operator explain 7",
        "pontoon operator cancel 7",
        "pontoon scheduler list",
        "pontoon scheduler pause repair 10m",
        "pontoon scheduler resume repair",
        "pontoon plan drain 3",
        "pontoon plan add-stores 2 --output json",
        "pontoon plan lose zone=a",
        "pontoon region list --output json",
        "pontoon region show 4",
        r"pontoon region find a\x00",
        "pontoon region split 4 --key m --key n --no-wait",
        "pontoon region move 4 --from 1 --to 2 --timeout 5s",
        "pontoon region transfer-leader 4 --to 2",
        "pontoon kv get --hex 0x00ff",
        "pontoon kv put a 1 --placement 127.0.0.1:2379",
        "pontoon kv del a",
        "pontoon kv scan --prefix a --limit 10 --keys-only",
        "pontoon bench put --clients 256 --duration 10s --value-size 128B --keys 1000 --output json",
        "pontoon bench mixed --rate 1000 --target etcd --endpoints 127.0.0.1:2379",
        "pontoon demo",
        "pontoon demo --load /usr/include",
    ] {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

/// A text of the repository, by its path from the root.
fn document(path: &str) -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    std::fs::read_to_string(format!("{root}/{path}"))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The README's commands work as they stand there.
#[test]
fn commands_of_the_readme_are_accepted() {
    let readme = document("README.md");
    let lines = readme.lines().map(str::trim_start);
    let shown = lines.filter(|line| line.starts_with("pontoon "));
    let mut count = 0;
    for line in shown {
        let (command, _comment) = line.split_once(" #").unwrap_or((line, ""));
        parse(command).unwrap_or_else(|error| panic!("{command}: {error}"));
        count += 1;
    }
    assert!(count > 20, "{count} commands");
}

/// What a text names exists: the words up to the first that is an option, a value or a placeholder.
#[test]
fn commands_that_documents_name_exist() {
    let mut count = 0;
    for path in [
        "README.md",
        "BENCHMARKS.md",
        "ARCHITECTURE.md",
        "docs/liveness.md",
        "docs/placement.md",
        "docs/raft.md",
        "docs/regions.md",
        "docs/reliability.md",
        "docs/storage.md",
    ] {
        let text = document(path);
        let named = text.split('`').skip(1).step_by(2);
        for words in named.filter_map(|name| name.strip_prefix("pontoon ")) {
            let mut command = &Args::command();
            for word in words.split_whitespace() {
                let is_name = word
                    .bytes()
                    .all(|byte| byte == b'-' || byte.is_ascii_lowercase());
                if !is_name || word.starts_with('-') || !command.has_subcommands() {
                    break;
                }
                let found = command.find_subcommand(word);
                command = found.unwrap_or_else(|| panic!("{path}: `pontoon {words}`: {word}"));
            }
            count += 1;
        }
    }
    assert!(count > 20, "{count} names");
}

/// As the README says, every command but `serve` and `config show` prints JSON when asked to.
#[test]
fn commands_print_json() {
    fn visit(command: &clap::Command, path: &str, without: &mut Vec<String>) {
        let inner: Vec<_> = command
            .get_subcommands()
            .filter(|inner| inner.get_name() != "help")
            .collect();
        if inner.is_empty()
            && !command
                .get_arguments()
                .any(|argument| argument.get_id() == "output")
        {
            without.push(path.to_owned());
        }
        for inner in inner {
            visit(inner, &format!("{path} {}", inner.get_name()), without);
        }
    }
    let mut command = Args::command();
    command.build();
    let mut without = Vec::new();
    visit(&command, "pontoon", &mut without);
    assert_eq!(
        without,
        [
            "pontoon serve placement",
            "pontoon serve store",
            "pontoon config show"
        ]
    );
}

#[test]
fn nonsense_is_refused() {
    for line in [
        "pontoon",
        "pontoon dev --dir x --api-version 3",
        "pontoon region split 4",
        "pontoon store label 3",
        "pontoon store label 3 zone",
        "pontoon scheduler pause repair",
        "pontoon kv put a",
        "pontoon serve store",
        "pontoon config show --config x",
        "pontoon bench put --clients 0",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
    let code = run(["pontoon", "region", "show", "four"].map(Into::into));
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(2)));
}

#[test]
fn help_lists_the_exit_codes() {
    let help = Args::command()
        .after_help(exit::help())
        .render_long_help()
        .to_string();
    assert!(help.contains("Exit codes:"), "{help}");
}

#[test]
fn a_prefix_ends_before_its_successor() {
    assert_eq!(kv::after_prefix(b"ab"), b"ac");
    assert_eq!(kv::after_prefix(b"a\xff\xff"), b"b");
    assert_eq!(kv::after_prefix(b"\xff"), b"");
    assert_eq!(kv::after_prefix(b""), b"");
}
