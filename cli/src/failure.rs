//! What a command answers where it cannot do its work: what failed, what to do, and the exit code.

use std::error::Error;
use std::fmt::{self, Display};
use std::process::ExitCode;

/// A command's result.
pub type Outcome<T = ()> = Result<T, Failure>;

/// A failed command. Shown as two lines: what failed, and what to do.
#[derive(Debug)]
pub struct Failure {
    what: String,
    advice: String,
    fault: Fault,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Input,
    Work,
}

impl Failure {
    /// Wrong use or bad input: exit code 2.
    pub fn input(what: impl Display, advice: impl Display) -> Self {
        Self { what: what.to_string(), advice: advice.to_string(), fault: Fault::Input }
    }

    /// The work itself failed: exit code 1.
    pub fn work(what: impl Display, advice: impl Display) -> Self {
        Self { what: what.to_string(), advice: advice.to_string(), fault: Fault::Work }
    }

    /// What failed.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// 2 for wrong use or bad input, 1 otherwise.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(if self.fault == Fault::Input { 2 } else { 1 })
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line each, whatever the causes hold.
        let line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        write!(f, "error: {}\nhelp: {}", line(&self.what), line(&self.advice))
    }
}

/// Turns a library's error into a [`Failure`], with its causes in the first line.
pub trait OrFail<T> {
    /// Bad input; `doing` says what was tried with which thing.
    fn or_input(self, doing: impl Display, advice: impl Display) -> Outcome<T>;
    /// Failed work.
    fn or_work(self, doing: impl Display, advice: impl Display) -> Outcome<T>;
}

impl<T, E: Error> OrFail<T> for Result<T, E> {
    fn or_input(self, doing: impl Display, advice: impl Display) -> Outcome<T> {
        self.map_err(|error| Failure::input(format!("{doing}: {}", chain(&error)), advice))
    }

    fn or_work(self, doing: impl Display, advice: impl Display) -> Outcome<T> {
        self.map_err(|error| Failure::work(format!("{doing}: {}", chain(&error)), advice))
    }
}

/// An error and its causes on one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_two_lines() {
        let failure = Failure::input("cannot read a.onnx:\n truncated", "export it again");
        assert_eq!(failure.to_string(), "error: cannot read a.onnx: truncated\nhelp: export it again");
    }
}
