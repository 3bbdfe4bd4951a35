//! Plots as SVG, by hand: a few polylines.

use std::fmt::Write;
use std::path::Path;

use crate::Sample;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
const MARGIN: f64 = 50.0;

struct Line {
    name: &'static str,
    color: &'static str,
    points: Vec<(f64, f64)>,
}

/// Writes `balance-size.svg` and `balance-load.svg`; the first `old` stores were there before.
pub(crate) fn write(folder: &Path, samples: &[Sample], old: usize) {
    let plots = [
        (
            "balance-size.svg",
            "bytes of a store",
            pick(samples, old, |sample| &sample.size),
        ),
        (
            "balance-load.svg",
            "writes of a store as a leader",
            pick(samples, old, |sample| &sample.proposals),
        ),
    ];
    for (file, title, lines) in plots {
        let path = folder.join(file);
        std::fs::write(&path, draw(title, &lines))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

fn pick(samples: &[Sample], old: usize, loads: impl Fn(&Sample) -> &Vec<f64>) -> Vec<Line> {
    let line = |name, color, value: &dyn Fn(&[f64]) -> f64| Line {
        name,
        color,
        points: samples
            .iter()
            .map(|sample| {
                let loads = loads(sample);
                let mean = loads.iter().sum::<f64>() / loads.len() as f64;
                (sample.minutes, value(loads) / mean)
            })
            .collect(),
    };
    let max = |loads: &[f64]| loads.iter().copied().fold(0.0, f64::max);
    let min = |loads: &[f64]| loads.iter().copied().fold(f64::INFINITY, f64::min);
    vec![
        line("old stores, greatest", "#b03030", &|loads| {
            max(&loads[..old])
        }),
        line("old stores, least", "#e09090", &|loads| min(&loads[..old])),
        line("new stores, greatest", "#3050b0", &|loads| {
            max(&loads[old..])
        }),
        line("new stores, least", "#90a8e0", &|loads| min(&loads[old..])),
    ]
}

fn draw(title: &str, lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let right = points().map(|(x, _)| *x).fold(1.0, f64::max);
    let top = points().map(|(_, y)| *y).fold(1.0, f64::max) * 1.05;
    let x = |value: f64| MARGIN + value / right * (WIDTH - 2.0 * MARGIN);
    let y = |value: f64| HEIGHT - MARGIN - value / top * (HEIGHT - 2.0 * MARGIN);
    let mut svg = String::new();
    let mut put = |text: String| writeln!(svg, "{text}").expect("a string grows");
    put(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">"
    ));
    put(format!(
        "<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>"
    ));
    put(format!(
        "<text x=\"{MARGIN}\" y=\"20\">{title}, as a part of the mean, after a tenth more stores joined</text>"
    ));
    for value in [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0] {
        if value <= top {
            put(format!(
                "<line x1=\"{MARGIN}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/><text x=\"20\" \
                 y=\"{:.1}\">{value}</text>",
                WIDTH - MARGIN,
                y(value) + 4.0,
                y = y(value)
            ));
        }
    }
    for part in 0..=4 {
        let minutes = right * f64::from(part) / 4.0;
        put(format!(
            "<text x=\"{:.1}\" y=\"{}\">{minutes:.0} min</text>",
            x(minutes) - 10.0,
            HEIGHT - MARGIN + 16.0
        ));
    }
    for (at, line) in lines.iter().enumerate() {
        let points: Vec<_> = line
            .points
            .iter()
            .map(|(minutes, value)| format!("{:.1},{:.1}", x(*minutes), y(*value)))
            .collect();
        put(format!(
            "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\" points=\"{}\"/>",
            line.color,
            points.join(" ")
        ));
        put(format!(
            "<text x=\"{:.0}\" y=\"{}\" fill=\"{}\">{}</text>",
            MARGIN + at as f64 * 160.0,
            HEIGHT - 12.0,
            line.color,
            line.name
        ));
    }
    put("</svg>".into());
    svg
}
