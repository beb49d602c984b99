//! What the control plane logs, by scopes whose levels can be changed while it runs.
//!
//! A scope is Istio's word for a part of the log that has a level of its own; here it stands for targets of `tracing`. What the process was started with
//! stays as the ground, on which the levels that were set lie.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

/// Changes what is logged, by directives such as `info,authorization=debug`; says what holds now, or why not.
pub type SetLogging = Arc<dyn Fn(&str) -> Result<String, String> + Send + Sync>;

/// The target of the lines about policies.
pub(crate) const AUTHORIZATION: &str = "authorization";

/// A scope: its name, its targets, and what is in it.
const SCOPES: [(&str, &[&str], &str); 6] = [
    ("ads", &["mizzen_control::ads", "mizzen_control::connection"], "Proxies that come and go, and what they reject."),
    (crate::analysis::SCOPE, &[crate::analysis::SCOPE], "What is found wrong with what is in force."),
    (AUTHORIZATION, &[AUTHORIZATION], "The authorization policies that each workload gets; at debug level rule by rule."),
    ("ca", &["mizzen_control::ca", "mizzen_pki"], "Certificates that are signed."),
    ("config", &["mizzen_control::source", "mizzen_control::writer"], "Files that are read, and objects that are refused."),
    (DEFAULT, &[], "All that is in no other scope."),
];
/// The scope of all else.
const DEFAULT: &str = "default";
/// Istio's levels, and `trace`.
const LEVELS: [&str; 6] = ["none", "error", "warn", "info", "debug", "trace"];

/// The levels of scopes.
pub(crate) struct Logging {
    /// What the process was started with.
    base: String,
    set: Option<SetLogging>,
    levels: Mutex<BTreeMap<&'static str, &'static str>>,
}

impl fmt::Debug for Logging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logging").field("base", &self.base).finish_non_exhaustive()
    }
}

/// One scope, as `/debug/log` tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeStatus {
    /// Its name.
    pub name: String,
    /// What is in it.
    pub description: String,
    /// Its level, or the directives by which it was started.
    pub level: String,
}

impl Logging {
    pub(crate) fn new(base: String, set: Option<SetLogging>) -> Logging {
        Logging { base, set, levels: Mutex::default() }
    }

    /// All scopes, by name.
    pub(crate) fn scopes(&self) -> Vec<ScopeStatus> {
        let levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        let default = levels.get(DEFAULT).copied().unwrap_or(&self.base);
        let status = |(name, _, description): &(&str, &[&str], &str)| ScopeStatus {
            name: (*name).to_owned(),
            description: (*description).to_owned(),
            level: levels.get(*name).copied().unwrap_or(default).to_owned(),
        };
        SCOPES.iter().map(status).collect()
    }

    /// What is logged, as directives.
    pub(crate) fn directives(&self) -> String {
        directives(&self.base, &self.levels.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets levels: `authorization:debug,ads:warn`, or one level for all. Either all are set or none.
    ///
    /// # Errors
    /// Which scope or level there is none of, or why the levels cannot be changed.
    pub(crate) fn set(&self, text: &str) -> Result<(), String> {
        let Some(set) = &self.set else { return Err("this process' log cannot be changed".to_owned()) };
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wanted = levels.clone();
        for part in text.split(',').map(str::trim) {
            match part.split_once(':') {
                Some((scope, level)) => drop(wanted.insert(scope_of(scope.trim())?, level_of(level.trim())?)),
                None => {
                    let level = level_of(part)?;
                    wanted.extend(SCOPES.iter().map(|(name, ..)| (*name, level)));
                }
            }
        }
        set(&directives(&self.base, &wanted))?;
        *levels = wanted;
        Ok(())
    }

    /// Puts all back to what the process was started with.
    ///
    /// # Errors
    /// Why that cannot be.
    pub(crate) fn reset(&self) -> Result<(), String> {
        let Some(set) = &self.set else { return Err("this process' log cannot be changed".to_owned()) };
        set(&self.base)?;
        self.levels.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }
}

fn scope_of(name: &str) -> Result<&'static str, String> {
    if let Some((known, ..)) = SCOPES.iter().find(|(known, ..)| *known == name) {
        return Ok(known);
    }
    let names = || SCOPES.iter().map(|(name, ..)| *name);
    let near = mizzen_api::nearest(name, names()).map(|near| format!(", did you mean `{near}`?")).unwrap_or_default();
    Err(format!("there is no scope `{name}`{near} There are {}", names().collect::<Vec<_>>().join(", ")))
}

fn level_of(name: &str) -> Result<&'static str, String> {
    let known = LEVELS.iter().find(|known| known.eq_ignore_ascii_case(name));
    known.copied().ok_or_else(|| format!("there is no level `{name}`; there are {}", LEVELS.join(", ")))
}

/// What was set, over what the process was started with: of several directives for one target the last counts.
fn directives(base: &str, levels: &BTreeMap<&'static str, &'static str>) -> String {
    let word = |level: &str| if level == "none" { "off".to_owned() } else { level.to_owned() };
    let default = levels.get(DEFAULT).map(|level| word(level));
    let scopes = SCOPES.iter().filter_map(|(name, targets, _)| Some((*targets, levels.get(name)?)));
    let targets = scopes.flat_map(|(targets, level)| targets.iter().map(move |target| format!("{target}={}", word(level))));
    std::iter::once(base.to_owned()).chain(default).chain(targets).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = told.clone();
        let set: SetLogging = Arc::new(move |text: &str| {
            heard.lock().unwrap().push(text.to_owned());
            Ok(text.to_owned())
        });
        let logging = Logging::new("info".to_owned(), Some(set));
        let check = |wanted: &str, expected: Result<&str, &str>| {
            let before = logging.directives();
            let result = logging.set(wanted);
            match expected {
                Ok(directives) => {
                    assert_eq!(result, Ok(()), "{wanted}");
                    assert_eq!(logging.directives(), directives);
                    assert_eq!(told.lock().unwrap().last().map(String::as_str), Some(directives));
                }
                Err(part) => {
                    assert!(result.as_ref().is_err_and(|error| error.contains(part)), "{wanted}: {result:?}");
                    assert_eq!(logging.directives(), before, "{wanted}: nothing is changed by halves");
                }
            }
        };
        check("authorization:debug", Ok("info,authorization=debug"));
        check("authorization:none, default:WARN", Ok("info,warn,authorization=off"));
        check("authorization:info,authorisation:debug", Err("did you mean `authorization`?"));
        check("ads:loud", Err("there are none, error"));
        check("", Err("there is no level ``"));
        let level = |name: &str| logging.scopes().into_iter().find(|scope| scope.name == name).unwrap().level;
        assert_eq!((level("authorization"), level("ca"), level("default")), ("none".to_owned(), "warn".to_owned(), "warn".to_owned()));
        logging.reset().unwrap();
        assert_eq!((logging.directives(), level("authorization")), ("info".to_owned(), "info".to_owned()));
        assert!(Logging::new(String::new(), None).set("debug").is_err());
    }
}
