//! Prints settings as TOML that can be fed back.

use std::fmt::Write;

use super::{Key, Section};

/// Every setting of a process with its default and its explanation, as a file that is valid and changes nothing.
pub fn show_defaults<T: Section>() -> String {
    render(&T::default(), T::DOCS, true)
}

/// The settings without their explanations.
pub fn to_toml<T: Section>(config: &T) -> String {
    render(config, &[], false)
}

fn render<T: Section>(config: &T, docs: &[&str], explain: bool) -> String {
    let values = toml::Table::try_from(config).expect("settings have a form in TOML");
    let mut out = String::new();
    if explain {
        comment(&mut out, docs);
        out.push('\n');
    }
    table(&mut out, &values, &T::keys(), "", explain);
    out
}

fn table(out: &mut String, values: &toml::Table, keys: &[Key], prefix: &str, explain: bool) {
    for key in keys {
        let Some(value) = values.get(key.name) else {
            // An optional setting without a value.
            if explain {
                comment(out, key.docs);
                writeln!(out, "# {} = ...\n", key.name).expect("a string takes any text");
            }
            continue;
        };
        match (key.table, value) {
            (Some(inner), toml::Value::Table(values)) => {
                if !out.is_empty() && !out.ends_with("\n\n") {
                    out.push('\n');
                }
                if explain {
                    comment(out, key.docs);
                }
                writeln!(out, "[{prefix}{}]", key.name).expect("a string takes any text");
                table(
                    out,
                    values,
                    &inner(),
                    &format!("{prefix}{}.", key.name),
                    explain,
                );
            }
            _ => {
                if explain {
                    comment(out, key.docs);
                }
                writeln!(out, "{} = {value}", key.name).expect("a string takes any text");
                if explain {
                    out.push('\n');
                }
            }
        }
    }
}

fn comment(out: &mut String, docs: &[&str]) {
    for line in docs {
        writeln!(
            out,
            "#{}{line}",
            if line.is_empty() || line.starts_with(' ') {
                ""
            } else {
                " "
            }
        )
        .expect("a string takes any text");
    }
}
