//! Which messages are told, and in which order.

use mizzen_analyze::{Code, Level, Message};

/// One `--suppress`: a code, and of which objects it is not told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Suppression {
    /// The code, as it was written.
    pub(crate) code: String,
    /// `Kind name.namespace` or `Kind namespace/name`, with `*` for anything.
    objects: String,
}

impl Suppression {
    /// From `CODE=OBJECTS`.
    pub(crate) fn parse(text: &str) -> Result<Suppression, String> {
        match text.split('=').collect::<Vec<_>>()[..] {
            [code, objects] if !code.is_empty() && !objects.is_empty() => {
                Ok(Suppression { code: code.trim().to_owned(), objects: objects.trim().to_owned() })
            }
            _ => Err(format!("`{text}` is not of the form CODE=KIND NAME.NAMESPACE, such as `IST0103=Pod *.testing`")),
        }
    }

    /// Whether its code is none.
    pub(crate) fn is_unknown(&self) -> bool {
        Code::named(&self.code).is_none()
    }

    fn hides(&self, message: &Message) -> bool {
        let id = &message.id;
        let dotted = if id.namespace.is_empty() { id.to_string() } else { format!("{} {}.{}", id.kind, id.name, id.namespace) };
        let is_code = Code::named(&self.code).is_some_and(|code| code.id == message.code.id);
        is_code && (matches(&self.objects, &dotted) || matches(&self.objects, &id.to_string()))
    }
}

/// Whether a pattern in which `*` stands for any text is that of the whole text.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    /// Only of objects of this namespace, and of none.
    pub(crate) namespace: Option<String>,
    /// What is not told.
    pub(crate) suppressions: Vec<Suppression>,
    /// Only these codes.
    pub(crate) codes: Option<Vec<&'static str>>,
}

impl Selection {
    /// Leaves what is asked for: what matters most first, then by code, object and place, which is istioctl's order.
    pub(crate) fn apply(&self, mut messages: Vec<Message>) -> Vec<Message> {
        messages.retain(|message| self.takes(message));
        messages.sort_by(|a, b| {
            let key = |m: &Message| (std::cmp::Reverse(m.code.level), m.code.id);
            key(a).cmp(&key(b)).then_with(|| a.id.cmp(&b.id)).then_with(|| a.cmp(b))
        });
        messages.dedup();
        messages
    }

    fn takes(&self, message: &Message) -> bool {
        let namespace = &message.id.namespace;
        let is_inside = namespace.is_empty() || self.namespace.as_ref().is_none_or(|wanted| **wanted == **namespace);
        let is_code = self.codes.as_ref().is_none_or(|codes| codes.contains(&message.code.id));
        is_inside && is_code && !self.suppressions.iter().any(|suppression| suppression.hides(message))
    }
}

/// What of the messages is told: what matters enough, and overviews if they are wanted or if there is nothing else.
pub(crate) fn told(messages: &[Message], least: Level, overviews: Overviews) -> Vec<&Message> {
    let enough = || messages.iter().filter(move |message| message.code.level >= least);
    let is_quiet = enough().all(|message| message.code.is_overview);
    let wanted = match overviews {
        Overviews::Always => true,
        Overviews::AloneOnly => is_quiet,
        Overviews::Never => false,
    };
    enough().filter(|message| wanted || !message.code.is_overview).collect()
}

/// When overviews are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overviews {
    /// They are asked for.
    Always,
    /// If nothing else is said.
    AloneOnly,
    /// A program reads what is told: nothing must be wrong if it is empty.
    Never,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn message(code: &str, kind: &str, namespace: &str, name: &str) -> Message {
        let code = Code::named(code).expect("a code");
        let id = mizzen_analyze::Id { kind: kind.into(), namespace: namespace.into(), name: name.into(), group: "".into() };
        let pos = mizzen_api::Pos::new("a.yaml", 7, 3);
        Message { code, id, pos, field: String::new(), text: "it is wrong".into(), fix: None }
    }

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("Pod a.b", "Pod a.b", true),
            ("Pod a.b", "Pod a.bc", false),
            ("Pod *.b", "Pod a.b", true),
            ("Pod *.b", "Pod a.bc", false),
            ("*", "", true),
            ("*", "anything", true),
            ("*.shop", "Service x.shop", true),
            ("Se*ce x.*op", "Service x.shop", true),
            ("a*a", "a", false),
            ("a*b*b", "ab", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn what_is_left_out() {
        let all = || {
            vec![
                message("IST0103", "Pod", "shop", "a"),
                message("MZ0120", "Namespace", "", "shop"),
                message("IST0101", "VirtualService", "shop", "b"),
                message("IST0101", "VirtualService", "bank", "a"),
                message("IST0118", "Service", "bank", "a"),
                message("IST0103", "Pod", "bank", "a"),
                message("IST0103", "Pod", "shop", "a"),
            ]
        };
        let check = |selection: Selection, expected: &[&str]| {
            let told = selection.apply(all());
            let told: Vec<String> = told.iter().map(|m| format!("{} {}", m.code.id, m.id.place())).collect();
            assert_eq!(told, expected, "{selection:?}");
        };
        let hide = |texts: &[&str]| Selection {
            suppressions: texts.iter().map(|text| Suppression::parse(text).expect("a suppression")).collect(),
            ..Selection::default()
        };
        let full = ["IST0101 bank/a", "IST0101 shop/b", "IST0103 bank/a", "IST0103 shop/a", "IST0118 bank/a", "MZ0120 shop"];
        check(Selection::default(), &full);
        let within = Selection { namespace: Some("shop".into()), ..Selection::default() };
        check(within, &["IST0101 shop/b", "IST0103 shop/a", "MZ0120 shop"]);
        check(hide(&["IST0103=Pod *.shop", "IST0101=*"]), &["IST0103 bank/a", "IST0118 bank/a", "MZ0120 shop"]);
        check(hide(&["IST0103=Pod bank/a", "MZ0120=Namespace shop", "IST0118=Pod *"]), &[full[0], full[1], full[3], full[4]]);
        check(Selection { codes: Some(vec!["IST0118"]), ..Selection::default() }, &[full[4]]);
        for bad in ["IST0103", "IST0103=a=b", "=Pod a.b", "IST0103="] {
            assert!(Suppression::parse(bad).expect_err("no suppression").contains(bad));
        }
    }

    #[test]
    fn overviews() {
        let check = |codes: &[&str], least, overviews, expected: &[&str]| {
            let all: Vec<Message> = codes.iter().map(|code| message(code, "Pod", "shop", "a")).collect();
            let told: Vec<&str> = told(&all, least, overviews).iter().map(|m| m.code.id).collect();
            assert_eq!(told, expected, "{codes:?} {overviews:?}");
        };
        use Overviews::{AloneOnly, Always, Never};
        check(&["IST0103", "MZ0120"], Level::Info, AloneOnly, &["IST0103"]);
        check(&["IST0103", "MZ0120"], Level::Info, Always, &["IST0103", "MZ0120"]);
        check(&["IST0103", "MZ0120"], Level::Warning, Always, &["IST0103"]);
        check(&["MZ0120"], Level::Info, AloneOnly, &["MZ0120"]);
        check(&["MZ0120"], Level::Info, Never, &[]);
        check(&["MZ0120"], Level::Error, AloneOnly, &[]);
    }
}
