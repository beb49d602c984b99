//! What a worker tells the outside of its traffic: metrics and lines of access logs.

use std::{collections::HashMap, sync::Arc};

use mizzen_ir::config::AccessLog;

use crate::{Action, context::Context, log, metrics::Table, view::View};

/// As long as a line is, mostly.
const LINE: usize = 1024;

/// A worker's metrics, and the lines that are not written yet.
#[derive(Debug, Default)]
pub(crate) struct Telemetry {
    pub(crate) table: Table,
    /// By the log's file.
    lines: HashMap<&'static str, (Arc<str>, Vec<u8>)>,
}

impl Telemetry {
    /// Writes one record to those of some logs that want it.
    pub(crate) fn write(&mut self, logs: &[Arc<AccessLog>], view: &View<'_>) {
        for one in logs {
            if one.filter.as_ref().is_none_or(|filter| log::wanted(filter, view)) {
                let target = log::target(one);
                let (_, lines) = self.lines.entry(target).or_insert_with(|| (target.into(), Vec::new()));
                lines.reserve(LINE);
                log::line(&one.format, view, lines);
            }
        }
    }

    /// Hands the lines over to the driver.
    pub(crate) fn flush(&mut self, cx: &mut Context) {
        for (file, lines) in self.lines.values_mut().filter(|(_, lines)| !lines.is_empty()) {
            cx.actions.push(Action::Log(file.clone(), std::mem::take(lines)));
        }
    }
}
