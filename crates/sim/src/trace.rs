//! What happened in a run: always as a digest, on request as text.

use crate::schedule::Time;

/// The record of a run.
#[derive(Debug, Default)]
pub struct Trace {
    digest: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// A trace that keeps its text if `text`.
    pub fn new(text: bool) -> Self {
        Trace {
            digest: 0,
            lines: text.then(Vec::new),
        }
    }

    /// Notes what happened at `now`: `words` go into the digest, `text` is only built when it is kept.
    pub fn note(&mut self, now: Time, words: [u64; 4], text: impl FnOnce() -> String) {
        let mut digest = self.digest ^ now;
        for word in words {
            digest = (digest ^ word)
                .wrapping_mul(0xFF51_AFD7_ED55_8CCD)
                .rotate_left(31);
        }
        self.digest = digest;
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>10.3} {}", now as f64 / 1000.0, text()));
        }
    }

    /// Whether the text is kept.
    pub fn is_text(&self) -> bool {
        self.lines.is_some()
    }

    /// The hash of everything noted.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The lines, when they were kept.
    pub fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}
