//! Plain readable output.

use std::time::Duration;

use e2e::http_client::Answer;

/// Numbers the steps and lines up what is said.
#[derive(Debug, Default)]
pub(crate) struct Teller {
    steps: u32,
}

impl Teller {
    pub(crate) fn step(&mut self, what: &str, how: &str) {
        self.steps += 1;
        println!("{:>2}. {what:<24} {how}", self.steps);
    }

    pub(crate) fn fact(&self, name: &str, value: &str) {
        println!("    {name:<24} {value}");
    }

    pub(crate) fn answer(&self, what: &str, answer: &Answer) {
        self.fact(what, &format!("in {}", time(answer.elapsed)));
    }
}

/// A duration as a person would say it.
pub(crate) fn time(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1000.0;
    match ms {
        ..10.0 => format!("{ms:.1} ms"),
        10.0..1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1000.0),
    }
}

/// The beginning and the end of something long.
pub(crate) fn short(text: &str) -> String {
    let count = text.chars().count();
    if count <= 28 {
        return text.to_owned();
    }
    let start: String = text.chars().take(16).collect();
    let end: String = text.chars().skip(count - 8).collect();
    format!("{start}…{end}")
}

/// The beginning of something long, on one line.
pub(crate) fn first_chars(text: &str, most: usize) -> String {
    let line: String = text
        .chars()
        .filter(|c| !c.is_control())
        .take(most)
        .collect();
    if line.len() < text.trim_end().len() {
        format!("{line}…")
    } else {
        line
    }
}
