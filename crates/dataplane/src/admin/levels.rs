//! What the process logs, by loggers, as Envoy's `/logging` tells and sets it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
};

use crate::options::SetLogging;

/// The loggers: the crates of the proxy, without what their names begin with.
const LOGGERS: [&str; 8] = ["agent", "dataplane", "engine", "http", "ir", "net", "pki", "xds"];
/// Envoy's levels, and their names here.
const LEVELS: [(&str, &str); 9] = [
    ("trace", "trace"),
    ("debug", "debug"),
    ("info", "info"),
    ("warning", "warn"),
    ("warn", "warn"),
    ("error", "error"),
    ("critical", "error"),
    ("off", "off"),
    ("none", "off"),
];

/// The levels, and how they are changed.
pub(crate) struct Levels {
    base: String,
    set: Option<SetLogging>,
    now: Mutex<Now>,
}

#[derive(Clone, Default)]
struct Now {
    /// Directives for all that no level was set of; none if they are those of the start.
    all: Option<String>,
    levels: BTreeMap<&'static str, &'static str>,
}

impl Levels {
    /// Those with which the process was started.
    pub(crate) fn new(base: String, set: Option<SetLogging>) -> Levels {
        Levels { base, set, now: Mutex::default() }
    }

    /// All loggers with their levels.
    pub(super) fn text(&self) -> String {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let all = now.all.as_ref().unwrap_or(&self.base);
        let line = |logger: &&str| format!("  {logger}: {}\n", now.levels.get(*logger).copied().unwrap_or(all.as_str()));
        "active loggers:\n".to_owned() + &LOGGERS.iter().map(line).collect::<String>()
    }

    /// Changes them: `level`, one for all or directives; `paths`, `LOGGER:LEVEL` with commas; `reset`. Nothing is changed if a part of it is wrong.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn change(&self, params: &HashMap<String, String>) -> Result<(), String> {
        if let Some(other) = params.keys().find(|key| !["level", "paths", "reset"].contains(&key.as_str())) {
            return Err(format!("`{other}` is not supported; there are level, paths and reset"));
        }
        if params.is_empty() {
            return Ok(());
        }
        let Some(set) = &self.set else { return Err("this process' log cannot be changed".to_owned()) };
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wanted = if params.contains_key("reset") { Now::default() } else { now.clone() };
        if let Some(level) = params.get("level") {
            wanted = Now { all: Some(level_of(level).map_or_else(|_| level.clone(), str::to_owned)), ..Now::default() };
        }
        for part in params.get("paths").into_iter().flat_map(|paths| paths.split(',')) {
            let Some((logger, level)) = part.split_once([':', '=']) else {
                return Err(format!("`{part}` is not of the form LOGGER:LEVEL"));
            };
            wanted.levels.insert(logger_of(logger.trim())?, level_of(level.trim())?);
        }
        let all = wanted.all.as_ref().unwrap_or(&self.base).clone();
        let loggers = wanted.levels.iter().map(|(logger, level)| format!("mizzen_{logger}={level}"));
        // Of several directives for one target the last counts.
        set(&std::iter::once(all).chain(loggers).collect::<Vec<_>>().join(","))?;
        *now = wanted;
        Ok(())
    }
}

fn logger_of(name: &str) -> Result<&'static str, String> {
    let short = name.strip_prefix("mizzen_").unwrap_or(name);
    let known = LOGGERS.iter().find(|logger| **logger == short);
    known.copied().ok_or_else(|| format!("there is no logger `{name}`; there are {}", LOGGERS.join(", ")))
}

fn level_of(name: &str) -> Result<&'static str, String> {
    let known = LEVELS.iter().find(|(level, _)| level.eq_ignore_ascii_case(name));
    let names = || LEVELS.map(|(level, _)| level).join(", ");
    known.map(|(_, level)| *level).ok_or_else(|| format!("there is no level `{name}`; there are {}", names()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn changes() {
        let said = Arc::new(Mutex::new(String::new()));
        let to = said.clone();
        let set: SetLogging = Arc::new(move |text: &str| {
            if text.contains("bad") {
                return Err("no such directive".to_owned());
            }
            text.clone_into(&mut to.lock().unwrap());
            Ok(text.to_owned())
        });
        let levels = Levels::new("info".to_owned(), Some(set));
        let check = |params: &[(&str, &str)], expected: Result<&str, &str>, engine: &str| {
            let params = params.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            match (levels.change(&params), expected) {
                (Ok(()), Ok(directives)) => assert_eq!(*said.lock().unwrap(), directives, "{params:?}"),
                (Err(error), Err(part)) => assert!(error.contains(part), "{params:?}: {error}"),
                (found, _) => panic!("{params:?}: {found:?}"),
            }
            assert!(levels.text().contains(&format!("\n  engine: {engine}\n")), "{params:?}: {}", levels.text());
        };
        check(&[], Ok(""), "info");
        check(&[("paths", "engine:debug,xds=trace")], Ok("info,mizzen_engine=debug,mizzen_xds=trace"), "debug");
        check(&[("paths", "engine:warning")], Ok("info,mizzen_engine=warn,mizzen_xds=trace"), "warn");
        check(&[("paths", "engin:debug")], Err("there is no logger `engin`; there are agent, "), "warn");
        check(&[("paths", "engine:loud")], Err("there is no level `loud`; there are trace, "), "warn");
        check(&[("paths", "engine")], Err("LOGGER:LEVEL"), "warn");
        check(&[("logger", "debug")], Err("`logger` is not supported"), "warn");
        check(&[("level", "bad=x")], Err("no such directive"), "warn");
        check(&[("level", "error")], Ok("error"), "error");
        check(&[("level", "info,mizzen_engine=debug")], Ok("info,mizzen_engine=debug"), "info,mizzen_engine=debug");
        check(&[("reset", "")], Ok("info"), "info");
        assert!(Levels::new(String::new(), None).change(&HashMap::from([("level".to_owned(), "info".to_owned())])).is_err());
    }
}
