//! What commands print: a table for people or JSON for programs.

use std::io::{self, ErrorKind, Write};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::exit;

/// The form of a command's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people.
    Table,
    /// One JSON document for programs.
    Json,
}

/// Prints `value`: as JSON, or as the table that `table` makes of it, of which an empty one prints nothing.
///
/// # Errors
/// As for [`text`].
pub fn print<T: Serialize>(
    format: Format,
    value: &T,
    table: impl FnOnce(&T) -> String,
) -> exit::Result<()> {
    match format {
        Format::Table => {
            let table = table(value);
            if table.is_empty() {
                return Ok(());
            }
            text(&format!("{}\n", table.trim_end_matches('\n')))
        }
        Format::Json => {
            let json = serde_json::to_string_pretty(value).expect("output has a form in JSON");
            text(&format!("{json}\n"))
        }
    }
}

/// Prints that a command was taken: a sentence for people, or the same in JSON.
///
/// # Errors
/// As for [`text`].
pub fn taken(format: Format, text: String) -> exit::Result<()> {
    #[derive(Serialize)]
    struct Taken {
        done: String,
    }
    print(format, &Taken { done: text }, |taken| taken.done.clone())
}

/// Writes `text` to standard output. Who reads may have read enough (`| head`), which is no failure.
///
/// # Errors
/// When the output cannot be written for another reason, as to a full disk.
pub fn text(text: &str) -> exit::Result<()> {
    write(&mut io::stdout().lock(), text)
}

/// Writes a line of progress to standard error, if anybody reads it.
pub fn progress(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn write(out: &mut impl Write, text: &str) -> exit::Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(exit::Failure::environment("cannot write the output", error))
        }
        _ => Ok(()),
    }
}

/// A table with one line per row and no lines between them.
pub fn rows<const N: usize>(
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    trim_lines(&table.to_string())
}

/// A table of names and values.
pub fn facts<'a>(facts: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (name, value) in facts {
        table.add_row([name.to_owned(), value]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    trim_lines(&table.to_string())
}

fn trim_lines(text: &str) -> String {
    text.lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

/// A number with its thousands apart: `1 234 567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// A number of bytes with three digits or so: `1.4 GiB`.
pub fn bytes(count: u64) -> String {
    bytesize::ByteSize(count).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fails(ErrorKind);

    impl Write for Fails {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_who_has_enough_is_no_failure_and_a_full_disk_is() {
        assert!(write(&mut Fails(ErrorKind::BrokenPipe), "rows").is_ok());
        let failure =
            write(&mut Fails(ErrorKind::StorageFull), "rows").expect_err("the disk is full");
        assert_eq!(failure.kind(), exit::Kind::Environment);
    }

    #[test]
    fn rows_line_up_without_trailing_blanks() {
        let text = rows(
            ["id", "state"],
            [
                ["1".to_owned(), "up".to_owned()],
                ["1004".to_owned(), "down".to_owned()],
            ],
        );
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1].find("up"), lines[2].find("down"));
        assert!(lines.iter().all(|line| *line == line.trim_end()));
    }

    #[test]
    fn thousands_are_apart() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_000), "1 000");
        assert_eq!(thousands(1_234_567), "1 234 567");
    }
}
