//! A plot of lines with interval whiskers as one SVG document, readable on white. Knows nothing of what is plotted.

use std::fmt::Write;

/// What is drawn.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Above the plot.
    pub title: String,
    /// Under the horizontal axis, which starts at zero.
    pub x_label: String,
    /// Beside the vertical axis.
    pub y_label: String,
    /// A point to compare with: its name, and where it lies. Its height is a dashed line over the whole width.
    pub level: Option<(String, Point)>,
    /// The lines; colours and marks repeat after eight.
    pub lines: Vec<Line>,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// Its points in the order in which they are joined.
    pub points: Vec<Point>,
}

/// One point, with the interval that its height lies in.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// Along the horizontal axis.
    pub x: f64,
    /// Along the vertical axis.
    pub y: f64,
    /// Where the interval begins; `y` for none.
    pub low: f64,
    /// Where it ends.
    pub high: f64,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 140.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 52.0;

/// Okabe and Ito's colours, which colour-blind readers can tell apart; the light ones left out.
const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#4d4d4d"];

/// Where values lie on the page.
struct Axes {
    x: Axis,
    y: Axis,
}

impl Axes {
    fn x(&self, value: f64) -> f64 {
        LEFT + self.x.share(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.share(value) * (HEIGHT - TOP - BOTTOM)
    }
}

/// A range that begins and ends at round values, with ticks between.
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    /// The least such range, of four to ten steps, that holds `low..=high`.
    fn over(low: f64, high: f64) -> Self {
        let span = if high > low { high - low } else { high.abs().max(1.0) };
        let power = 10f64.powf((span / 5.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power);
        let step = step.into_iter().find(|step| span / step <= 8.0).unwrap_or(10.0 * power);
        Self { low: (low / step).floor() * step, high: ((low + span) / step).ceil() * step, step }
    }

    fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let count = ((self.high - self.low) / self.step).round() as usize;
        (0..=count).map(|index| self.low + index as f64 * self.step)
    }

    /// A tick with as many digits as the step has.
    fn show(&self, value: f64) -> String {
        let digits = (-self.step.log10().floor()).max(0.0) as usize;
        format!("{value:.digits$}")
    }
}

/// The document. Values that are no finite numbers are left out.
pub fn svg(plot: &Plot) -> String {
    let finite = |p: &Point| [p.x, p.y, p.low, p.high].iter().all(|value| value.is_finite());
    let level = plot.level.as_ref().filter(|(_, point)| finite(point));
    let lines = plot.lines.iter().flat_map(|line| &line.points);
    let all: Vec<Point> = lines.chain(level.map(|(_, point)| point)).filter(|p| finite(p)).copied().collect();
    let highest = |values: &mut dyn Iterator<Item = f64>| values.reduce(f64::max);
    let right = highest(&mut all.iter().map(|p| p.x)).unwrap_or(1.0);
    let high = highest(&mut all.iter().map(|p| p.high)).unwrap_or(1.0);
    let low = all.iter().map(|p| p.low).reduce(f64::min).unwrap_or(0.0);
    let axes = Axes { x: Axis::over(0.0, right), y: Axis::over(low, high) };

    let mut body = String::new();
    frame(&mut body, plot, &axes);
    if let Some((name, point)) = level {
        draw_level(&mut body, name, point, &axes);
    }
    for (index, line) in plot.lines.iter().enumerate() {
        let points: Vec<_> = line.points.iter().filter(|p| finite(p)).copied().collect();
        draw(&mut body, &points, index, &axes);
        legend(&mut body, &line.name, index);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{body}</svg>\n"
    )
}

/// Title, grid, ticks and labels.
fn frame(body: &mut String, plot: &Plot, axes: &Axes) {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let middle = ((LEFT + right) / 2.0, (TOP + bottom) / 2.0);
    put(body, format_args!("<g stroke=\"#ddd\">"));
    for x in axes.x.ticks().map(|tick| axes.x(tick)) {
        put(body, format_args!("<path d=\"M{x:.1} {TOP}V{bottom}\"/>"));
    }
    for y in axes.y.ticks().map(|tick| axes.y(tick)) {
        put(body, format_args!("<path d=\"M{LEFT} {y:.1}H{right}\"/>"));
    }
    put(body, format_args!("</g>\n<g text-anchor=\"middle\">"));
    for tick in axes.x.ticks() {
        let (x, y, text) = (axes.x(tick), bottom + 18.0, axes.x.show(tick));
        put(body, format_args!("<text x=\"{x:.1}\" y=\"{y}\">{text}</text>"));
    }
    let (title, x_label, y_label) = (escaped(&plot.title), escaped(&plot.x_label), escaped(&plot.y_label));
    let (x, y) = middle;
    put(body, format_args!("<text x=\"{x}\" y=\"24\" font-size=\"15\">{title}</text>"));
    put(body, format_args!("<text x=\"{x}\" y=\"{}\">{x_label}</text>", HEIGHT - 12.0));
    put(body, format_args!("<text transform=\"translate(16 {y}) rotate(-90)\">{y_label}</text>"));
    put(body, format_args!("</g>\n<g text-anchor=\"end\">"));
    for tick in axes.y.ticks() {
        let (x, y, text) = (LEFT - 8.0, axes.y(tick) + 4.0, axes.y.show(tick));
        put(body, format_args!("<text x=\"{x}\" y=\"{y:.1}\">{text}</text>"));
    }
    put(body, format_args!("</g>"));
}

fn draw_level(body: &mut String, name: &str, point: &Point, axes: &Axes) {
    let (right, y) = (WIDTH - RIGHT, axes.y(point.y));
    put(
        body,
        format_args!(
            "<g fill=\"none\" stroke=\"#222\"><path d=\"{}\"/>",
            whisker(point, axes.x(point.x), axes)
        ),
    );
    put(body, format_args!("<path d=\"M{LEFT} {y:.1}H{right}\" stroke-dasharray=\"6 4\"/></g>"));
    put(body, format_args!("<text x=\"{}\" y=\"{:.1}\">{}</text>", right + 8.0, y + 4.0, escaped(name)));
}

/// The path of a point's interval, drawn at `x` of the page.
fn whisker(point: &Point, x: f64, axes: &Axes) -> String {
    let (low, high) = (axes.y(point.low), axes.y(point.high));
    format!("M{x:.1} {low:.1}V{high:.1}m-3 0h6M{:.1} {low:.1}h6", x - 3.0)
}

/// The line, its whiskers and its marks. Lines are shifted by a pixel each, so that whiskers do not hide each other.
fn draw(body: &mut String, points: &[Point], index: usize, axes: &Axes) {
    let colour = COLOURS[index % COLOURS.len()];
    let shift = (index % COLOURS.len()) as f64 - 2.0;
    let (mut line, mut whiskers, mut marks) = (String::new(), String::new(), String::new());
    for point in points {
        let (x, y) = (axes.x(point.x) + shift, axes.y(point.y));
        let _ = write!(line, "{}{x:.1} {y:.1}", if line.is_empty() { "M" } else { "L" });
        whiskers.push_str(&whisker(point, x, axes));
        marks.push_str(&mark(index, x, y));
    }
    put(body, format_args!("<g fill=\"none\" stroke=\"{colour}\">"));
    put(body, format_args!("<path d=\"{line}\" stroke-width=\"2\"/><path d=\"{whiskers}\"/>"));
    put(body, format_args!("<path d=\"{marks}\" fill=\"{colour}\"/></g>"));
}

/// The path of a line's mark: square, diamond, triangle or cross, so that the lines differ without colour.
fn mark(index: usize, x: f64, y: f64) -> String {
    match index % 4 {
        0 => format!("M{:.1} {:.1}h6v6h-6z", x - 3.0, y - 3.0),
        1 => format!("M{x:.1} {:.1}l4 4l-4 4l-4-4z", y - 4.0),
        2 => format!("M{x:.1} {:.1}l4 7h-8z", y - 4.0),
        _ => format!("M{:.1} {:.1}l6 6m0-6l-6 6", x - 3.0, y - 3.0),
    }
}

fn legend(body: &mut String, name: &str, index: usize) {
    let colour = COLOURS[index % COLOURS.len()];
    let (x, bottom) = (WIDTH - RIGHT + 12.0, HEIGHT - BOTTOM);
    // From the bottom up, where the level's name is least likely to be.
    let y = bottom - 8.0 - 18.0 * index as f64;
    let sample = mark(index, x + 10.0, y);
    put(body, format_args!("<path d=\"M{x} {y}h20\" stroke=\"{colour}\" stroke-width=\"2\"/>"));
    put(body, format_args!("<path d=\"{sample}\" stroke=\"{colour}\" fill=\"{colour}\"/>"));
    put(body, format_args!("<text x=\"{}\" y=\"{}\">{}</text>", x + 26.0, y + 4.0, escaped(name)));
}

/// A line of the document. Writing to a `String` cannot fail.
fn put(body: &mut String, line: std::fmt::Arguments<'_>) {
    let _ = body.write_fmt(line);
    body.push('\n');
}

fn escaped(text: &str) -> String {
    let known = text.chars().filter(|c| !c.is_control());
    known.fold(String::new(), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            _ => out.push(c),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(lines: usize, points: usize) -> Plot {
        let point = |index: usize| {
            let y = 90.0 - index as f64;
            Point { x: 100.0 * (points - index) as f64 / points as f64, y, low: y - 1.5, high: y + 1.5 }
        };
        let line = |index| Line { name: format!("method {index}"), points: (0..points).map(point).collect() };
        Plot {
            title: "a <b> & \"c\"".into(),
            x_label: "share".into(),
            y_label: "accuracy".into(),
            level: Some(("dense".into(), Point { x: 100.0, y: 91.0, low: 89.0, high: 93.0 })),
            lines: (0..lines).map(line).collect(),
        }
    }

    /// All numbers of the path data in `svg` that stand after `M` as x.
    fn starts(svg: &str) -> Vec<f64> {
        let after = svg.split('M').skip(1).filter_map(|part| part.split([' ', 'V', 'H']).next());
        after.filter_map(|number| number.parse().ok()).collect()
    }

    #[test]
    fn every_line_is_drawn_inside_the_page_and_named() {
        let document = svg(&plot(5, 3));
        assert!(document.starts_with("<svg xmlns=") && document.ends_with("</svg>\n"));
        assert_eq!(document.matches("<g").count(), document.matches("</g>").count());
        assert!(document.contains("a &lt;b&gt; &amp; &quot;c&quot;"));
        for name in ["dense", "share", "accuracy", "method 0", "method 4"] {
            assert!(document.contains(&format!(">{name}</text>")), "{name}");
        }
        let whiskers = document.lines().filter(|line| line.contains("m-3 0h6")).count();
        assert_eq!(whiskers, 5 + 1);
        assert!(
            starts(&document).len() > 5 * 3 && starts(&document).iter().all(|x| (0.0..=WIDTH).contains(x))
        );
    }

    #[test]
    fn it_stays_small_and_leaves_out_what_is_no_number() {
        let full = svg(&plot(8, 32));
        assert!(full.len() < 30_000, "{} bytes", full.len());
        let mut odd = plot(1, 2);
        odd.lines[0].points[0].y = f64::NAN;
        odd.lines[0].points[1].x = f64::INFINITY;
        let empty = Plot { level: None, ..plot(0, 0) };
        for document in [svg(&odd), svg(&plot(0, 0)), svg(&empty)] {
            assert!(!document.contains("NaN") && !document.contains("inf"), "{document}");
        }
    }

    #[test]
    fn axes_begin_and_end_at_round_values() {
        for (low, high) in [(0.0, 100.0), (83.2, 91.4), (0.0, 1.0), (10.0, 10.0), (0.0, 163.0)] {
            let axis = Axis::over(low, high);
            assert!(axis.low <= low && high <= axis.high, "{low}..{high}");
            assert!((3..=11).contains(&axis.ticks().count()), "{low}..{high}: {}", axis.ticks().count());
        }
        assert_eq!(
            Axis::over(0.0, 100.0).ticks().map(|x| x as u32).collect::<Vec<_>>(),
            [0, 20, 40, 60, 80, 100]
        );
    }
}
