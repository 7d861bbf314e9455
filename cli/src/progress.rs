//! Progress of long work, on stderr: a bar on a terminal, a line a stage elsewhere.

use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};

/// Tells how far a long work has come.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    stage: String,
    tenth: u64,
}

impl Progress {
    /// Progress on this process's stderr.
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{msg:28} [{bar:32}] {pos}/{len} {elapsed}");
            let bar = ProgressBar::new(0);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar
        });
        Self { bar, stage: String::new(), tenth: 0 }
    }

    /// `done` of `total` steps of `stage`. A stage that takes long is told again at every tenth.
    pub(crate) fn at(&mut self, stage: &str, done: u64, total: u64) {
        let tenth = if total >= 100 { done.saturating_mul(10) / total } else { 0 };
        let new = stage != self.stage;
        if new {
            self.stage = stage.to_owned();
        }
        match &self.bar {
            Some(bar) => {
                bar.set_message(self.stage.clone());
                bar.set_length(total);
                bar.set_position(done);
            }
            None if new || tenth > self.tenth => note(&format!("{stage}: {done}/{total}")),
            None => {}
        }
        self.tenth = if new { 0 } else { tenth.max(self.tenth) };
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
