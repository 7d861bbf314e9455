//! What a command prints: one JSON document, or text for people. Only this and `screen` write to stdout.

use std::io::Write;

use serde::Serialize;

use crate::failure::{Failure, OrFail, Outcome};

/// Where results go.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// One JSON document instead of text.
    pub json: bool,
}

impl Output {
    /// Prints `document` as JSON, or what `text` makes for people.
    ///
    /// # Errors
    /// Where stdout cannot be written. A reader that went away is no error.
    pub fn print(self, document: &impl Serialize, text: impl FnOnce() -> String) -> Outcome {
        let body = if self.json {
            serde_json::to_string_pretty(document)
                .or_work("write the JSON document", "report this as a defect")?
        } else {
            text()
        };
        write_line(body.trim_end())
    }

    /// Prints text for people; nothing where JSON was asked for.
    ///
    /// # Errors
    /// As [`Output::print`].
    pub fn say(self, text: &str) -> Outcome {
        if self.json { Ok(()) } else { write_line(text.trim_end()) }
    }
}

fn write_line(text: &str) -> Outcome {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::work(format!("write to stdout: {error}"), "free some space, or redirect elsewhere"))
        }
        _ => Ok(()),
    }
}

/// How a column is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows under a header, in aligned columns two spaces apart.
pub fn table(columns: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let width = |index: usize| {
        let cells = rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.chars().count());
        cells.chain([columns[index].0.chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let set = |(index, cell): (usize, &str)| {
            let gap = " ".repeat(widths[index].saturating_sub(cell.chars().count()));
            match columns[index].1 {
                Align::Left => format!("{cell}{gap}"),
                Align::Right => format!("{gap}{cell}"),
            }
        };
        cells.enumerate().take(widths.len()).map(set).collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut columns.iter().map(|(name, _)| *name))];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

/// `part` of `whole` in per cent, as people read it.
pub fn percent(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:.1} %", 100.0 * part / whole) } else { "–".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = vec![vec!["µs".into(), "5".into()], vec!["long".into(), "1234".into()]];
        let text = table(&[("name", Align::Left), ("n", Align::Right)], &rows);
        assert_eq!(text, "name     n\nµs       5\nlong  1234");
    }
}
