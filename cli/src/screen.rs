//! A terminal taken for a live view: lines drawn over the ones before, and everything put back at the end.
//!
//! Plain ANSI sequences, each frame in one write, so that nothing flickers.

use std::io::{IsTerminal, Write};

use crate::failure::{OrFail, Outcome};

/// One line of a view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Line {
    pub(crate) text: String,
    pub(crate) tone: Tone,
}

/// How a line is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tone {
    Plain,
    Title,
    Faint,
    Good,
    Busy,
    Bad,
}

impl Tone {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Title => "\x1b[1m",
            Self::Faint => "\x1b[2m",
            Self::Good => "\x1b[32m",
            Self::Busy => "\x1b[33m",
            Self::Bad => "\x1b[31m",
        }
    }
}

/// The alternate screen, without a cursor, where a long line does not wrap.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
/// Where the system does not tell the size.
const USUAL: (usize, usize) = (80, 24);

/// The terminal on stdout; as it was before once this is dropped.
pub(crate) struct Screen(());

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub(crate) fn open() -> Outcome<Self> {
        let screen = Self(());
        write(ENTER)?;
        Ok(screen)
    }

    /// Whether there is a terminal to take.
    pub(crate) fn is_there() -> bool {
        std::io::stdout().is_terminal()
    }

    /// Columns and rows at present.
    pub(crate) fn size() -> (usize, usize) {
        terminal_size::terminal_size().map_or(USUAL, |(width, height)| (width.0.into(), height.0.into()))
    }

    /// Shows `lines` in place of what was shown before.
    ///
    /// # Errors
    /// Where the terminal cannot be written.
    pub(crate) fn draw(&self, lines: &[Line]) -> Outcome {
        write(&frame(lines, Self::size()))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = write(LEAVE);
    }
}

/// The bytes that show `lines` on a terminal of this size: each cleared to its end, then all below.
fn frame(lines: &[Line], (columns, rows): (usize, usize)) -> String {
    let shown = lines.iter().take(rows).map(|line| {
        let (text, code) = (clip(&line.text, columns), line.tone.code());
        if code.is_empty() { format!("{text}\x1b[K") } else { format!("{code}{text}\x1b[0m\x1b[K") }
    });
    format!("\x1b[H{}\x1b[J", shown.collect::<Vec<_>>().join("\r\n"))
}

/// `text` in at most `columns`, with a sign where something is left out.
fn clip(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns.saturating_sub(1)).chain(['…']).take(columns).collect()
}

fn write(text: &str) -> Outcome {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.or_work("cannot write to the terminal", "run it on a terminal, or with --once")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, tone: Tone) -> Line {
        Line { text: text.into(), tone }
    }

    #[test]
    fn a_frame_draws_over_the_one_before() {
        let lines = [line("title", Tone::Title), line("µ 12345", Tone::Plain), line("below", Tone::Bad)];
        assert_eq!(frame(&lines, (5, 2)), "\x1b[H\x1b[1mtitle\x1b[0m\x1b[K\r\nµ 12…\x1b[K\x1b[J");
    }

    #[test]
    fn text_is_clipped_to_any_width() {
        assert_eq!(["abc", "abcd", ""].map(|text| clip(text, 3)), ["abc", "ab…", ""]);
        assert_eq!(clip("abc", 1), "…");
        assert_eq!(clip("abc", 0), "");
    }
}
