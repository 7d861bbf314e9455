//! Progress of long work, on stderr: a bar on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Tells how far a long work has come.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    told: Instant,
}

/// Without a terminal, a line is told no more often than this; what is done sooner tells none.
const LINE_EVERY: Duration = Duration::from_secs(2);

impl Progress {
    /// Progress on this process's stderr.
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{msg:28} [{bar:32}] {pos}/{len} {elapsed}");
            let bar = ProgressBar::new(0);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar
        });
        Self { bar, told: Instant::now() }
    }

    /// `done` of `total` steps of `stage`.
    pub(crate) fn at(&mut self, stage: &str, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_message(stage.to_owned());
            bar.set_length(total);
            bar.set_position(done);
        } else if self.told.elapsed() >= LINE_EVERY {
            note(&format!("{stage}: {done}/{total}"));
            self.told = Instant::now();
        }
    }

    /// A line for people that stays.
    pub(crate) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(text)),
            None => note(text),
        }
    }

    /// Takes the bar away.
    pub(crate) fn done(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.done();
    }
}

/// A line on stderr. A stderr that cannot be written is nothing to fail on.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
