//! Real time, for what is around worlds. Inside they have their own.

use std::time::Duration;

#[expect(clippy::disallowed_types, reason = "how long people wait is real time")]
type Instant = std::time::Instant;

/// Measures real time since it was made.
#[derive(Clone, Copy, Debug)]
pub struct Watch(Instant);

impl Watch {
    /// Begins now.
    pub fn start() -> Watch {
        Watch(Instant::now())
    }

    /// Since then.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}
