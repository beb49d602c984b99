//! What is said of a call, for whoever asks why it was refused: the answer, the reason, and then each step.

use std::fmt::Write;

use mizzen_explain::{Explanation, Hop, Security, Side, Step, To, Verdict, Way, rule_names};
use owo_colors::OwoColorize;

/// The text, with colours: whoever prints it takes them out where no terminal is.
pub(super) fn text(explanation: &Explanation, notes: &[String], verbose: bool) -> String {
    let mut out = Writer { out: String::new(), explanation, verbose };
    out.line(0, &explanation.call.to_string());
    out.line(0, &headline(&explanation.verdict));
    out.reasons();
    for note in notes {
        out.line(0, &format!("{} {note}", "note:".yellow()));
    }
    out.line(0, "");
    for step in &explanation.steps {
        out.step(0, Mark::Good, step);
    }
    out.hop(0, &explanation.hop);
    out.out
}

fn headline(verdict: &Verdict) -> String {
    match super::code(verdict) {
        0 => format!("{}: {verdict}", "ALLOWED".green().bold()),
        super::REFUSED => format!("{}: {}", "REFUSED".red().bold(), short(verdict)),
        _ => format!("{}: {}", "UNKNOWN".yellow().bold(), short(verdict)),
    }
}

/// A verdict without what the nearest policy lacks, which is told apart.
fn short(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Denied { policy: None, why } => match why.split_once("; nearest is ") {
            Some((before, _)) => before.to_owned(),
            None => why.clone(),
        },
        Verdict::Unknown { why } => why.clone(),
        Verdict::Differs { verdicts } => {
            let all: Vec<String> = verdicts.iter().map(short).collect();
            format!("it depends: {}", all.join("; or "))
        }
        other => other.to_string(),
    }
}

/// What a step came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Good,
    Bad,
    Open,
}

impl Mark {
    fn of(verdict: &Verdict) -> Mark {
        match super::code(verdict) {
            0 => Mark::Good,
            super::REFUSED => Mark::Bad,
            _ => Mark::Open,
        }
    }

    fn sign(self) -> String {
        match self {
            Mark::Good => "✓".green().to_string(),
            Mark::Bad => "✗".red().to_string(),
            Mark::Open => "?".yellow().to_string(),
        }
    }
}

struct Writer<'a> {
    out: String,
    explanation: &'a Explanation,
    verbose: bool,
}

impl Writer<'_> {
    fn line(&mut self, depth: usize, text: &str) {
        let _ = writeln!(self.out, "{:depth$}{text}", "");
    }

    /// A text in which rules are named by their policy and their place.
    fn named(&self, text: &str) -> String {
        let mut said = text.to_owned();
        let names: std::collections::BTreeSet<&str> = rule_names(text).collect();
        for name in names {
            let readable = readable(name);
            let place = self.explanation.places.get(name).map(|place| format!(" at {place}")).unwrap_or_default();
            said = said.replace(name, &format!("{readable}{place}"));
        }
        // Of rules about which an authorizer is asked.
        said.replace("istio-ext-authz-AuthorizationPolicy", "AuthorizationPolicy")
    }

    /// Why it is refused: each reason once.
    fn reasons(&mut self) {
        let mut seen = Vec::new();
        let all = match &self.explanation.verdict {
            Verdict::Differs { verdicts } => verdicts.clone(),
            one => vec![one.clone()],
        };
        for verdict in all {
            let Verdict::Denied { why, .. } = verdict else { continue };
            if seen.contains(&why) {
                continue;
            }
            match why.split_once("; nearest is ") {
                None => self.line(2, &self.named(&why)),
                Some((_, miss)) => {
                    let (rule, lacking) = miss.split_once(": ").unwrap_or((miss, ""));
                    self.line(2, &format!("what comes nearest is {}", self.named(rule)));
                    for one in lacking.split("; ").filter(|one| !one.is_empty()) {
                        self.line(4, &format!("{} {one}", "lacks".red()));
                    }
                }
            }
            seen.push(why);
        }
    }

    fn step(&mut self, depth: usize, mark: Mark, step: &Step) {
        let held = match step.held {
            Some(true) => " [held]".dimmed().to_string(),
            Some(false) => " [not held: it is fetched on first use]".yellow().to_string(),
            None => String::new(),
        };
        let outcome = self.named(&step.outcome);
        let outcome = match mark {
            Mark::Bad => outcome.split("; nearest is ").next().unwrap_or_default().to_owned(),
            _ => outcome,
        };
        self.line(depth, &format!("{} {:<10} {outcome}{held}", mark.sign(), step.step.name()));
        // What did not match explains a refusal, and else only interests who asks.
        let wanted = self.verbose || mark != Mark::Good;
        for reason in step.reasons.iter().filter(|_| wanted) {
            let sign = if reason.matched { '+' } else { '-' };
            let indent = depth + 13 + 2 * usize::from(reason.depth);
            let text = self.named(&reason.text);
            self.line(indent, &format!("{sign} {text}").dimmed().to_string());
        }
    }

    fn hop(&mut self, depth: usize, hop: &Hop) {
        let what = match hop.side {
            Side::Outbound => "the caller's proxy",
            Side::Inbound => "the server's proxy",
            Side::Gateway => "the gateway",
            Side::Bare => "without a proxy",
        };
        self.line(depth, &format!("{} ({what})", hop.proxy.bold()));
        let ends = hop.ways.is_empty();
        let (last, before) = match hop.steps.split_last() {
            Some((last, before)) if ends && is_reason(last, &hop.verdict) => (Some(last), before),
            _ => (None, &hop.steps[..]),
        };
        for step in before {
            let mark = if step.outcome.ends_with(NO_ANSWER) { Mark::Open } else { Mark::Good };
            self.step(depth + 2, mark, step);
        }
        match last {
            Some(step) => self.step(depth + 2, Mark::of(&hop.verdict), step),
            None if ends => self.verdict(depth + 2, &hop.verdict),
            None => {}
        }
        for way in &hop.ways {
            self.way(depth + 2, way, hop.ways.len() > 1);
        }
        // Said where it comes from, and not at each proxy before.
        let is_own = hop.ways.iter().all(|way| super::code(&way.verdict) != super::UNKNOWN);
        if let (Verdict::Unknown { .. }, false, true) = (&hop.verdict, ends, is_own) {
            self.verdict(depth + 2, &hop.verdict);
        }
    }

    fn verdict(&mut self, depth: usize, verdict: &Verdict) {
        let said = self.named(&short(verdict));
        self.line(depth, &format!("{} {said}", Mark::of(verdict).sign()));
    }

    fn way(&mut self, depth: usize, way: &Way, is_one_of_several: bool) {
        if is_one_of_several {
            let share = way.share.map(|share| format!(", {} of {}", share.weight, share.of)).unwrap_or_default();
            let when = way.when.as_ref().map(|when| format!(", {when}")).unwrap_or_default();
            self.line(depth, &format!("{} {}{share}{when}", "or to".bold(), way.cluster));
        }
        let depth = depth + if is_one_of_several { 2 } else { 0 };
        way.steps.iter().for_each(|step| self.step(depth, Mark::Good, step));
        if way.to.is_empty() {
            return self.verdict(depth, &way.verdict);
        }
        let mut told: Vec<&To> = Vec::new();
        for to in &way.to {
            let alike = told.iter().find(|one| to.used && one.verdict == to.verdict && one.security == to.security);
            let place = place(to);
            match alike {
                Some(first) => {
                    let first = first.workload.as_deref().unwrap_or(&first.address);
                    self.line(depth, &format!("→ {place}: as {first}"));
                }
                None if !to.used => {
                    self.line(depth, &format!("→ {place}: not called, since it is not well or others come first").dimmed().to_string())
                }
                None => {
                    self.to(depth, to, &place);
                    told.push(to);
                }
            }
        }
    }

    fn to(&mut self, depth: usize, to: &To, place: &str) {
        self.line(depth, &format!("→ {place}, {}", security(&to.security)));
        to.steps.iter().for_each(|step| self.step(depth + 2, Mark::Good, step));
        match (&to.next, &to.verdict) {
            (Some(next), _) => self.hop(depth + 2, next),
            (None, Some(verdict)) => self.verdict(depth + 2, verdict),
            (None, None) => self.line(depth + 2, "not followed: there are many"),
        }
    }
}

/// What is said of an authorizer whose answer was not given.
const NO_ANSWER: &str = "nobody knows its answer";

/// Whether the step is the one that ended it.
fn is_reason(step: &Step, verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Denied { why, .. } => *why == step.outcome,
        // What tokens are refused for.
        Verdict::Answered { why, .. } => step.outcome.strip_prefix("request authentication: ").is_some_and(|said| why.ends_with(said)),
        _ => false,
    }
}

fn place(to: &To) -> String {
    match &to.workload {
        Some(workload) => format!("{workload} at {}", to.address),
        None => to.address.clone(),
    }
}

fn security(security: &Security) -> String {
    match security {
        Security::Plaintext => "in plaintext".to_owned(),
        Security::Tls { server_name } => format!("over TLS, server name {server_name}"),
        Security::MutualTls { identity, .. } => format!("over mutual TLS as {identity}"),
    }
}

/// `ns[shop]-policy[web]-rule[0]` as `AuthorizationPolicy shop/web, rule[0]`.
fn readable(rule: &str) -> String {
    let parts = rule.strip_prefix("ns[").and_then(|rest| rest.split_once("]-policy["));
    let parts = parts.and_then(|(namespace, rest)| Some((namespace, rest.split_once("]-rule[")?)));
    match parts {
        Some((namespace, (name, index))) => format!("AuthorizationPolicy {namespace}/{name}, rule[{index}"),
        None => rule.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{explained, tests::shop};
    use super::*;

    fn plain(words: &str, verbose: bool) -> String {
        let explanation = explained(&shop(), words).expect("a call");
        anstream::adapter::strip_str(&text(&explanation, &[], verbose)).to_string()
    }

    #[test]
    fn a_refusal_is_read_from_the_top() {
        let said = plain("--from web --to reviews --path /other", false);
        let head = "\
shop/web: GET http://reviews:9080/other
REFUSED: no policy allows it
  what comes nearest is AuthorizationPolicy shop/reviews-from-web, rule[0] at test.yaml:12
    lacks path begins with \"/reviews/\" (it is \"/other\")
";
        assert!(said.starts_with(head), "{said}");
        for line in [
            "shop/web (the caller's proxy)",
            "  ✓ route      ",
            "  → shop/reviews-v1 at 198.18.0.11:8080, over mutual TLS as spiffe://cluster.local/ns/shop/sa/web",
            "    shop/reviews-v1 (the server's proxy)",
            "      ✗ policy     no policy allows it\n",
            "  → shop/reviews-v2 at 198.18.0.12:8080: as shop/reviews-v1",
        ] {
            assert!(said.contains(line), "{line:?} is not in\n{said}");
        }
    }

    #[test]
    fn what_is_allowed_is_told_in_short_unless_asked() {
        let words = "--from web --to reviews --path /reviews/1";
        let said = plain(words, false);
        assert!(said.contains("ALLOWED: delivered") && !said.contains('✗') && !said.contains(" + "), "{said}");
        let all = plain(words, true);
        assert!(
            all.contains("      ✓ policy     AuthorizationPolicy shop/reviews-from-web, rule[0] at test.yaml:12 allows the request"),
            "{all}"
        );
        assert!(all.contains("             + policy `AuthorizationPolicy shop/reviews-from-web, rule[0]"), "{all}");
    }
}
