//! The two text formats that Prometheus reads: OpenMetrics 1.0 and its own 0.0.4. Written by hand, because a dozen lines
//! of format are less than a library in a process of root's. It must not write a name without type and help.

use std::fmt::{Display, Write as _};

use crate::metrics::value::{BOUNDS, Histogram};

/// The format of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Ends with `# EOF`; a counter's family has no `_total`.
    OpenMetrics,
    /// Prometheus 0.0.4, which `promtool check metrics` reads.
    Plain,
}

impl Format {
    /// The format that an Accept header asks for: Prometheus asks for OpenMetrics by name.
    pub(crate) fn accepted(accept: &str) -> Format {
        if accept.contains("application/openmetrics-text") {
            Format::OpenMetrics
        } else {
            Format::Plain
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Plain => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// A text that grows family by family.
#[derive(Debug)]
pub(crate) struct Text {
    out: String,
    format: Format,
}

impl Text {
    pub(crate) fn new(format: Format) -> Text {
        Text { out: String::with_capacity(32 << 10), format }
    }

    /// The whole text.
    pub(crate) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    /// One counter; its name ends with `_total`.
    pub(crate) fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "counter", help);
        self.sample(name, &[], value);
    }

    /// A counter for each value of one label.
    pub(crate) fn counters<V: Display>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        samples: impl IntoIterator<Item = (&'static str, V)>,
    ) {
        self.head(name, "counter", help);
        samples.into_iter().for_each(|(of, value)| self.sample(name, &[(label, of)], value));
    }

    /// A counter for each pair of values of two labels.
    pub(crate) fn counters_by_two(
        &mut self,
        name: &str,
        help: &str,
        [first, second]: [&str; 2],
        samples: impl IntoIterator<Item = ((&'static str, &'static str), u64)>,
    ) {
        self.head(name, "counter", help);
        for ((one, other), value) in samples {
            self.sample(name, &[(first, one), (second, other)], value);
        }
    }

    /// One gauge.
    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "gauge", help);
        self.sample(name, &[], value);
    }

    /// A gauge for each value of one label.
    pub(crate) fn gauges<V: Display>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        samples: impl IntoIterator<Item = (&'static str, V)>,
    ) {
        self.head(name, "gauge", help);
        samples.into_iter().for_each(|(of, value)| self.sample(name, &[(label, of)], value));
    }

    /// What does not change while the process lives, as labels of a 1; the name ends with `_info`.
    pub(crate) fn info(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) {
        self.head(name, if self.format == Format::Plain { "gauge" } else { "info" }, help);
        self.sample(name, labels, 1);
    }

    /// A histogram for each value of one label, or one without.
    pub(crate) fn histograms<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: Option<&str>,
        samples: impl IntoIterator<Item = (&'static str, &'a Histogram)>,
    ) {
        self.head(name, "histogram", help);
        for (of, histogram) in samples {
            let own = label.map(|label| (label, of));
            let (counts, sum) = histogram.read();
            let bounds = BOUNDS.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
            for (bound, count) in bounds.zip(counts) {
                let labels: Vec<_> = own.into_iter().chain([("le", bound.as_str())]).collect();
                self.sample(&format!("{name}_bucket"), &labels, count);
            }
            let own: Vec<_> = own.into_iter().collect();
            self.sample(&format!("{name}_sum"), &own, sum);
            self.sample(&format!("{name}_count"), &own, counts[BOUNDS.len()]);
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let suffix = match (self.format, kind) {
            (Format::OpenMetrics, "counter") => "_total",
            (Format::OpenMetrics, "info") => "_info",
            _ => "",
        };
        let family = name.strip_suffix(suffix).unwrap_or(name);
        // Writing to a string never fails.
        let _ = writeln!(self.out, "# HELP {family} {help}\n# TYPE {family} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.out.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.out, "{}{label}=\"", if at == 0 { '{' } else { ',' });
            for c in text.chars() {
                match c {
                    '\\' | '"' => self.out.extend(['\\', c]),
                    '\n' => self.out.push_str("\\n"),
                    c => self.out.push(c),
                }
            }
            self.out.push('"');
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.out, "{end} {value}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn written(format: Format) -> String {
        let mut text = Text::new(format);
        text.counter("a_total", "Counts.", 7);
        text.gauges("b", "Both.", "of", [("x\"\\\n", 1.5), ("y", 2.0)]);
        text.info("c_info", "Built.", &[("version", "1")]);
        text.finish()
    }

    #[test]
    fn both_formats_name_type_and_help_of_each_family() {
        let rest = "# HELP b Both.\n# TYPE b gauge\nb{of=\"x\\\"\\\\\\n\"} 1.5\nb{of=\"y\"} 2\n";
        let plain = "# HELP a_total Counts.\n# TYPE a_total counter\na_total 7\n".to_owned()
            + rest
            + "# HELP c_info Built.\n# TYPE c_info gauge\nc_info{version=\"1\"} 1\n";
        assert_eq!(written(Format::Plain), plain);
        let open = "# HELP a Counts.\n# TYPE a counter\na_total 7\n".to_owned()
            + rest
            + "# HELP c Built.\n# TYPE c info\nc_info{version=\"1\"} 1\n# EOF\n";
        assert_eq!(written(Format::OpenMetrics), open);
    }

    #[test]
    fn a_histogram_ends_with_infinity_sum_and_count() {
        let histogram = Histogram::new();
        histogram.observe(Duration::from_millis(2));
        let mut text = Text::new(Format::Plain);
        text.histograms("t_seconds", "Time.", Some("phase"), [("go", &histogram)]);
        let text = text.finish();
        assert!(text.contains("t_seconds_bucket{phase=\"go\",le=\"0.001\"} 0\n"), "{text}");
        assert!(text.contains("t_seconds_bucket{phase=\"go\",le=\"0.0025\"} 1\n"), "{text}");
        let end = "t_seconds_bucket{phase=\"go\",le=\"+Inf\"} 1\nt_seconds_sum{phase=\"go\"} 0.002\n\
                   t_seconds_count{phase=\"go\"} 1\n";
        assert!(text.ends_with(end), "{text}");
    }
}
