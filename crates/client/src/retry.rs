//! Whether an operation is tried again (R26).

use std::time::{Duration, Instant};

use crate::{
    backoff::Backoff,
    cause::{Cause, Executed, Next, When},
    error::{Error, Part},
    options::{Options, REQUEST_BYTES_MAX, UnknownWrites},
};

/// What doing an operation twice would mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It changes nothing.
    None,
    /// Doing it twice leaves what doing it once leaves.
    Idempotent,
    /// Doing it twice is another thing, so it is never sent again once it may have been done.
    Once,
}

/// One operation's attempts.
pub(crate) struct Retry {
    options: Options,
    effect: Effect,
    backoff: Backoff,
    attempts: u32,
    /// Some attempt may have had an effect.
    perhaps: bool,
}

impl Retry {
    pub(crate) fn new(options: &Options, effect: Effect, now: Instant) -> Self {
        Self {
            options: *options,
            effect,
            backoff: Backoff::new(options, now),
            attempts: 0,
            perhaps: false,
        }
    }

    /// Time for the next attempt. One that may not be repeated gets all there is.
    pub(crate) fn limit(&self) -> Duration {
        let left = self.backoff.left(Instant::now());
        match self.effect {
            Effect::Once => left,
            Effect::None | Effect::Idempotent => left.min(self.options.attempt_timeout),
        }
    }

    /// A part of the operation succeeded: the budget starts anew.
    pub(crate) fn progressed(&mut self, now: Instant) {
        self.backoff = Backoff::new(&self.options, now);
    }

    /// Waits for the next attempt.
    ///
    /// # Errors
    /// There is to be none.
    pub(crate) async fn pause(&mut self, cause: Cause, when: When) -> Result<(), Error> {
        let pause = self.decide(cause, when, Instant::now(), rand::random_range(0.0..1.0))?;
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// The pause before the next attempt after one that met `cause`.
    fn decide(
        &mut self,
        cause: Cause,
        when: When,
        now: Instant,
        jitter: f64,
    ) -> Result<Duration, Error> {
        self.attempts += 1;
        if cause.executed() == Executed::Perhaps && self.effect != Effect::None {
            self.perhaps = true;
            let repeat = self.effect == Effect::Idempotent
                && self.options.unknown_writes == UnknownWrites::Repeat;
            if !repeat {
                return Err(Error::Unknown { last: cause });
            }
        }
        if cause.next().0 == Next::Never {
            return Err(self.failure(cause));
        }
        self.backoff
            .pause(when, now, jitter)
            .ok_or_else(|| self.failure(cause))
    }

    /// The error of an operation whose last attempt met `cause`.
    fn failure(&self, cause: Cause) -> Error {
        match cause {
            last if self.perhaps => Error::Unknown { last },
            Cause::Refused { message } => Error::Refused { message },
            Cause::TooLarge { bytes } => {
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                Error::TooLarge {
                    part: Part::Request,
                    bytes,
                    bytes_max: REQUEST_BYTES_MAX.min(bytes.saturating_sub(1)),
                }
            }
            last => Error::Unavailable {
                budget_ms: self.options.budget.as_millis() as u64,
                attempts: self.attempts,
                last,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::StoreId;

    fn retry(effect: Effect, unknown_writes: UnknownWrites) -> Retry {
        Retry::new(
            &Options {
                unknown_writes,
                ..Options::default()
            },
            effect,
            Instant::now(),
        )
    }

    fn lost() -> Cause {
        Cause::Lost {
            store: StoreId(1),
            why: "reset".to_owned(),
        }
    }

    fn busy() -> Cause {
        Cause::NotReady {
            what: "busy",
            pause: Duration::ZERO,
        }
    }

    fn decide(retry: &mut Retry, cause: Cause) -> Result<Duration, Error> {
        let when = cause.next().1;
        retry.decide(cause, when, Instant::now(), 0.5)
    }

    fn late(retry: &mut Retry, cause: Cause) -> Error {
        let when = cause.next().1;
        retry
            .decide(cause, when, Instant::now() + Duration::from_secs(60), 0.5)
            .unwrap_err()
    }

    #[test]
    fn the_policy() {
        use {Effect::*, UnknownWrites::*};
        // What is done after an attempt whose outcome is not known, and after one that certainly did nothing.
        let table = [
            (None, Repeat, true),
            (None, Report, true),
            (Idempotent, Repeat, true),
            (Idempotent, Report, false),
            (Once, Repeat, false),
            (Once, Report, false),
        ];
        for (effect, unknown_writes, repeated) in table {
            let after_unknown = decide(&mut retry(effect, unknown_writes), lost());
            assert_eq!(
                after_unknown.is_ok(),
                repeated,
                "{effect:?} {unknown_writes:?}"
            );
            assert_eq!(
                after_unknown.is_err_and(|error| error.is_unknown()),
                !repeated
            );
            assert!(
                decide(&mut retry(effect, unknown_writes), busy()).is_ok(),
                "{effect:?} after a refusal"
            );
        }
    }

    #[test]
    fn compare_and_swap_is_never_sent_again_once_it_may_have_been_done() {
        for cause in [lost(), Cause::Undetermined] {
            let mut retry = retry(Effect::Once, UnknownWrites::Repeat);
            assert!(decide(&mut retry, busy()).is_ok());
            assert!(matches!(
                decide(&mut retry, cause),
                Err(Error::Unknown { .. })
            ));
        }
    }

    #[test]
    fn what_may_have_been_done_is_not_called_undone_at_the_end() {
        let mut unsure = retry(Effect::Idempotent, UnknownWrites::Repeat);
        assert!(decide(&mut unsure, lost()).is_ok());
        assert!(late(&mut unsure, busy()).is_unknown());
        let refused = || Cause::Refused {
            message: "no".to_owned(),
        };
        assert!(decide(&mut unsure, refused()).unwrap_err().is_unknown());

        let mut sure = retry(Effect::Idempotent, UnknownWrites::Repeat);
        assert!(decide(&mut sure, busy()).is_ok());
        assert!(matches!(
            late(&mut sure, busy()),
            Error::Unavailable { attempts: 2, .. }
        ));
        assert!(matches!(
            decide(&mut sure, refused()),
            Err(Error::Refused { .. })
        ));
        assert!(matches!(
            decide(&mut sure, Cause::TooLarge { bytes: 9 }),
            Err(Error::TooLarge { bytes: 9, .. })
        ));

        let mut read = retry(Effect::None, UnknownWrites::Report);
        assert!(decide(&mut read, lost()).is_ok());
        assert!(matches!(late(&mut read, lost()), Error::Unavailable { .. }));
    }

    #[test]
    fn only_what_may_be_repeated_is_cut_short() {
        let limit = retry(Effect::Idempotent, UnknownWrites::Repeat).limit();
        assert!(limit <= Options::default().attempt_timeout);
        assert!(retry(Effect::Once, UnknownWrites::Repeat).limit() > Duration::from_secs(9));
    }
}
