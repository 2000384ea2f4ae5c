//! A report as one page of HTML that needs nothing else: charts are SVG, drawn here, and no script runs in it.

#[cfg(test)]
mod tests;

use std::fmt::{self, Display, Write as _};

use bytesize::ByteSize;
use serde_json::Value;

use crate::load::Second;
use crate::report::Report;

/// Points of a line; longer runs are drawn from groups of seconds.
const POINTS: usize = 400;
/// Lines that have a colour of their own.
const COLOURS: usize = 6;

// A chart, in units of its own: at the width of a phone its letters are still legible.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 210.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 472.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 184.0;

const STYLE: &str = "
:root{--bg:#f6f7f9;--card:#fff;--ink:#1c2330;--dim:#5d6778;--grid:#dfe3ea;--good:#0a7d45;--bad:#c0262d;
--c0:#1f6feb;--c1:#e8710a;--c2:#0f9d6b;--c3:#a142f4;--c4:#d01884;--c5:#7a6a00}
@media(prefers-color-scheme:dark){:root{--bg:#10141b;--card:#191f29;--ink:#e4e9f1;--dim:#98a3b5;--grid:#2d3645;--good:#3ddc97;
--bad:#ff7b7b;--c0:#6ea8ff;--c1:#ffa657;--c2:#4fd1a1;--c3:#c99bff;--c4:#ff8ac4;--c5:#d8c75a}}
*{box-sizing:border-box}
body{margin:0 auto;padding:20px;max-width:1120px;background:var(--bg);color:var(--ink);font:15px/1.45 system-ui,sans-serif}
h1{font-size:22px;margin:0 0 2px}h2{font-size:15px;margin:0 0 6px}p{margin:0;color:var(--dim)}
.tiles,.charts,.tables{display:grid;gap:14px;margin-top:16px}
.tiles{grid-template-columns:repeat(auto-fit,minmax(150px,1fr))}
.charts,.tables{grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));align-items:start}
.card{background:var(--card);border:1px solid var(--grid);border-radius:10px;padding:12px 14px;min-width:0}
.tile b{display:block;font-size:22px;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}.tile span{color:var(--dim);font-size:13px}
.good{color:var(--good)}.bad{color:var(--bad)}
svg{display:block;width:100%;height:auto}svg text{fill:var(--dim);font-size:12px}
.grid{stroke:var(--grid);stroke-width:1}.line{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;font-size:13px;color:var(--dim);margin-bottom:4px}
.legend i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:5px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}
td{padding:3px 0;border-top:1px solid var(--grid);vertical-align:top;overflow-wrap:anywhere}
td:first-child{color:var(--dim);padding-right:12px}td:last-child{text-align:right}
tr:first-child td{border-top:0}pre{margin:0;overflow-x:auto;font-size:12.5px;line-height:1.4}
";

/// Returns the page.
pub(crate) fn page(report: &Report) -> String {
    let mut page = String::new();
    write_page(&mut page, report).expect("a String takes everything");
    page
}

fn write_page(out: &mut String, report: &Report) -> fmt::Result {
    let title = format!("{} of {} clients", report.command, report.setup.clients);
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width,initial-scale=1\"><title>{title}</title><style>{STYLE}</style></head><body>\n\
         <h1>{title}</h1><p>{} over {}, tidegate-bench {}</p>\n",
        Escaped(&report.setup.targets.join(", ")),
        report.setup.protocol,
        report.version,
        title = Escaped(&title),
    )?;
    tiles(out, report)?;
    out.push_str("<div class=\"charts\">\n");
    charts(report).iter().try_for_each(|chart| chart.write(out))?;
    out.push_str("</div>\n<div class=\"tables\">\n");
    table(out, "Parameters", &parameters(report))?;
    if let Some(found) = &report.verification {
        let count = |label: &str, count: u64| (label.to_owned(), count.to_string());
        let rows = [
            ("topic".to_owned(), found.topic.clone()),
            count("acknowledged", found.acknowledged),
            count("found", found.found),
            count("loss", found.loss),
            count("phantom", found.phantom),
            count("duplicates", found.duplicates),
            count("reordered", found.reordered),
            count("corrupt", found.corrupt),
            count("split keys", found.split_keys),
        ];
        table(out, "In Kafka", &rows)?;
    }
    if !report.troubles.is_empty() {
        let rows: Vec<_> =
            report.troubles.iter().map(|(what, count)| (what.clone(), count.to_string())).collect();
        table(out, "Troubles", &rows)?;
    }
    write!(
        out,
        "</div>\n<div class=\"tables\"><div class=\"card\"><h2>All figures</h2><pre>{}</pre></div></div>\n</body></html>\n",
        Escaped(&report.to_string())
    )
}

/// The figures that people look for first.
fn tiles(out: &mut String, report: &Report) -> fmt::Result {
    let clean = report.is_clean();
    let mut tiles = vec![
        (
            if clean { "clean" } else { "not clean" }.to_owned(),
            if clean { "nothing refused, lost or missing" } else { "something refused, lost or missing" }
                .to_owned(),
            if clean { "good" } else { "bad" },
        ),
        (report.counters.connected.to_string(), "connections".to_owned(), ""),
    ];
    let seconds = report.publishing_seconds.max(f64::EPSILON);
    let mut rate = |count: u64, what: &str| {
        if count > 0 {
            tiles.push((format!("{:.0}/s", float(count) / seconds), what.to_owned(), ""));
        }
    };
    rate(report.counters.sent, "messages sent");
    rate(report.counters.delivered, "deliveries");
    let latencies = [
        ("acknowledged", &report.acknowledge),
        ("delivered", &report.deliver),
        ("reconnected", &report.reconnect),
    ];
    for (what, summary) in latencies.into_iter().filter(|(_, summary)| summary.count > 0) {
        tiles.push((micros(float(summary.p99_us)), format!("99 % {what} within"), ""));
    }
    let each = report.each.unwrap_or_default();
    for process in report.processes.iter().filter(|process| !process.generator && !process.gone) {
        if let (Some(user), Some(system)) = (process.user_us_each, process.system_us_each) {
            tiles.push((format!("{:.1} us", user + system), format!("CPU a {each}, {}", process.name), ""));
        }
    }
    out.push_str("<div class=\"tiles\">\n");
    for (figure, what, class) in tiles {
        writeln!(
            out,
            "<div class=\"card tile\"><b class=\"{class}\">{}</b><span>{}</span></div>",
            Escaped(&figure),
            Escaped(&what)
        )?;
    }
    out.push_str("</div>\n");
    Ok(())
}

fn parameters(report: &Report) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    flatten("", &serde_json::to_value(&report.setup).unwrap_or_default(), &mut rows);
    rows
}

fn flatten(name: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::Object(members) => members.iter().for_each(|(name, value)| flatten(name, value, rows)),
        Value::String(text) => rows.push((name.replace('_', " "), text.clone())),
        other => rows.push((name.replace('_', " "), other.to_string())),
    }
}

fn table(out: &mut String, title: &str, rows: &[(String, String)]) -> fmt::Result {
    write!(out, "<div class=\"card\"><h2>{title}</h2><table>")?;
    for (label, value) in rows {
        write!(out, "<tr><td>{}</td><td>{}</td></tr>", Escaped(label), Escaped(value))?;
    }
    out.push_str("</table></div>\n");
    Ok(())
}

/// How several seconds become one point.
#[derive(Clone, Copy)]
enum Join {
    Mean,
    Highest,
}

struct Chart {
    title: &'static str,
    /// Of the first and the last point, in seconds.
    from: u64,
    to: u64,
    scale: Scale,
    label: fn(f64) -> String,
    lines: Vec<(String, Vec<f64>)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Scale {
    Linear,
    /// Powers of ten: latencies differ by magnitudes.
    Logarithmic,
}

/// Returns the charts that say something of this run.
fn charts(report: &Report) -> Vec<Chart> {
    let seconds = &report.seconds[..];
    let (Some(first), Some(last)) = (seconds.first(), seconds.last()) else { return Vec::new() };
    let chart = |title, scale, join, label, lines: Vec<(String, Vec<f64>)>| {
        let lines: Vec<_> = lines
            .into_iter()
            .filter(|(_, values)| values.iter().any(|value| *value > 0.0))
            .map(|(name, values)| (name, grouped(&values, join)))
            .collect();
        (!lines.is_empty()).then_some(Chart { title, from: first.at, to: last.at, scale, label, lines })
    };
    let line = |name: &str, value: fn(&Second) -> u64| {
        (name.to_owned(), seconds.iter().map(|second| float(value(second))).collect())
    };
    let processes = |value: fn(&crate::load::Sample) -> f64| {
        let of = |place: usize| {
            seconds.iter().map(|second| second.processes.get(place).map_or(0.0, value)).collect()
        };
        report
            .processes
            .iter()
            .enumerate()
            .map(|(place, process)| (process.name.clone(), of(place)))
            .collect()
    };
    let rates = vec![
        line("sent", |second| second.sent),
        line("acknowledged", |second| second.acked),
        line("delivered", |second| second.delivered),
    ];
    let connections = vec![
        line("online", |second| second.online),
        line("new a second", |second| second.connected + second.back),
    ];
    let latency = vec![
        line("p50", |second| second.p50_us),
        line("p99", |second| second.p99_us),
        line("p99.9", |second| second.p999_us),
        line("max", |second| second.max_us),
    ];
    [
        chart("Messages a second", Scale::Linear, Join::Mean, thousands, rates),
        chart("Latency", Scale::Logarithmic, Join::Highest, micros, latency),
        chart(
            "CPU, in % of one core",
            Scale::Linear,
            Join::Mean,
            thousands,
            processes(|sample| sample.cpu_percent),
        ),
        chart(
            "Resident memory",
            Scale::Linear,
            Join::Highest,
            bytes,
            processes(|sample| float(sample.resident_bytes)),
        ),
        chart("Connections", Scale::Linear, Join::Mean, thousands, connections),
        chart(
            "Troubles a second",
            Scale::Linear,
            Join::Mean,
            thousands,
            vec![line("troubles", |s| s.troubles)],
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Returns at most [`POINTS`] values.
fn grouped(values: &[f64], join: Join) -> Vec<f64> {
    let size = values.len().div_ceil(POINTS).max(1);
    let one = |group: &[f64]| match join {
        Join::Mean => group.iter().sum::<f64>() / float(group.len() as u64),
        Join::Highest => group.iter().copied().fold(0.0, f64::max),
    };
    values.chunks(size).map(one).collect()
}

impl Chart {
    fn write(&self, out: &mut String) -> fmt::Result {
        write!(out, "<div class=\"card\"><h2>{}</h2><div class=\"legend\">", self.title)?;
        for (place, (name, _)) in self.lines.iter().enumerate() {
            let colour = place % COLOURS;
            write!(out, "<span><i style=\"background:var(--c{colour})\"></i>{}</span>", Escaped(name))?;
        }
        write!(
            out,
            "</div><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            self.title
        )?;
        let ticks = self.ticks();
        for tick in &ticks {
            let (y, label) = (self.y(*tick, &ticks), (self.label)(*tick));
            write!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                LEFT - 6.0,
                y + 4.0
            )?;
        }
        for quarter in 0..=4_u32 {
            let share = f64::from(quarter) / 4.0;
            let second = float(self.from) + share * float(self.to - self.from);
            let anchor = match quarter {
                0 => "start",
                4 => "end",
                _ => "middle",
            };
            write!(
                out,
                "<text x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"{anchor}\">{} s</text>",
                LEFT + share * (RIGHT - LEFT),
                HEIGHT - 8.0,
                rounded(second)
            )?;
        }
        for (place, (_, values)) in self.lines.iter().enumerate() {
            let colour = place % COLOURS;
            write!(out, "<polyline class=\"line\" style=\"stroke:var(--c{colour})\" points=\"")?;
            let step = (RIGHT - LEFT) / float(values.len().saturating_sub(1).max(1) as u64);
            for (place, value) in values.iter().enumerate() {
                let x = LEFT + step * float(place as u64);
                write!(out, "{x:.1},{:.1} ", self.y(*value, &ticks))?;
            }
            out.push_str("\"/>");
        }
        out.push_str("</svg></div>\n");
        Ok(())
    }

    /// Returns the values at which the scale has a line, rising; the first is its lower end, the last its upper.
    fn ticks(&self) -> Vec<f64> {
        let values = self.lines.iter().flat_map(|(_, values)| values.iter().copied());
        let highest = values.clone().fold(0.0, f64::max);
        if self.scale == Scale::Logarithmic {
            let lowest = values.filter(|value| *value > 0.0).fold(f64::MAX, f64::min);
            let decade = |value: f64| value.max(1.0).log10();
            let (low, high) = (decade(lowest).floor(), decade(highest).ceil());
            let mut ticks = vec![10_f64.powf(low)];
            while ticks.last().is_some_and(|last| *last < 10_f64.powf(high) * 0.99) || ticks.len() < 2 {
                ticks.push(ticks.last().map_or(1.0, |last| last * 10.0));
            }
            return ticks;
        }
        // The smallest of 1, 2, 5 times a power of ten that covers all with five lines.
        let mut step = 10_f64.powf((highest / 5.0).max(1e-6).log10().floor());
        for factor in [2.0, 2.5, 2.0] {
            if step * 5.0 < highest {
                step *= factor;
            }
        }
        let lines = (highest / step).ceil().clamp(1.0, 5.0);
        (0..=5_u32).map(f64::from).take_while(|line| *line <= lines).map(|line| line * step).collect()
    }

    fn y(&self, value: f64, ticks: &[f64]) -> f64 {
        let (low, high) = (ticks.first().copied().unwrap_or(0.0), ticks.last().copied().unwrap_or(1.0));
        let share = match self.scale {
            Scale::Linear => (value - low) / (high - low),
            Scale::Logarithmic => (value.max(low) / low).log10() / (high / low).log10(),
        };
        BOTTOM - share.clamp(0.0, 1.0) * (BOTTOM - TOP)
    }
}

/// Text that means nothing in HTML, neither in an element nor in an attribute.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\n' | '\t' => f.write_char(c)?,
                c if c.is_control() => f.write_char('\u{fffd}')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

fn thousands(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", rounded(value / 1e6)),
        value if value >= 1e4 => format!("{}k", rounded(value / 1e3)),
        value => rounded(value).to_string(),
    }
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn micros(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{} s", rounded(us / 1e6)),
        us if us >= 1e3 => format!("{} ms", rounded(us / 1e3)),
        us => format!("{} us", rounded(us)),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a label for people")]
fn bytes(value: f64) -> String {
    ByteSize(value as u64).display().si_short().to_string()
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run are below 2^52")]
fn float(count: u64) -> f64 {
    count as f64
}
