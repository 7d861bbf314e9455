//! Progress of long work, on stderr: a bar on a terminal, a line now and then elsewhere.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Tells how far a long work has come, and how long its stages took.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    told: Instant,
    /// The stage that runs, and since when.
    stage: Option<(String, Instant)>,
    took: Vec<(String, Duration)>,
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
        Self { bar, told: Instant::now(), stage: None, took: Vec::new() }
    }

    /// `done` of `total` steps of `stage`.
    pub(crate) fn at(&mut self, stage: &str, done: u64, total: u64) {
        if self.stage.as_ref().is_none_or(|(running, _)| running != stage) {
            self.ended();
            self.stage = Some((stage.to_owned(), Instant::now()));
        }
        if let Some(bar) = &self.bar {
            bar.set_message(stage.to_owned());
            bar.set_length(total);
            bar.set_position(done);
        } else if self.told.elapsed() >= LINE_EVERY {
            note(&format!("{stage}: {done}/{total}"));
            self.told = Instant::now();
        }
    }

    /// What was told of so far has ended.
    fn ended(&mut self) {
        let Some((stage, since)) = self.stage.take() else { return };
        match self.took.iter_mut().find(|(known, _)| *known == stage) {
            Some((_, took)) => *took += since.elapsed(),
            None => self.took.push((stage, since.elapsed())),
        }
    }

    /// The seconds that each stage took, the running one until now.
    pub(crate) fn seconds(&mut self) -> BTreeMap<String, f64> {
        self.ended();
        self.took.iter().map(|(stage, took)| (stage.clone(), took.as_secs_f64())).collect()
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
