//! Keys that are wanted, on a clock that stands still where nobody waits.

use std::sync::Mutex;

use mizzen_api::parse_documents;
use mizzen_model::Change;

use super::*;
use crate::source::Merge;

const KEYS: &str = r#"{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}"#;

fn keys(kid: u32) -> String {
    format!(r#"{{"keys":[{{"kty":"RSA","n":"AQAB","e":"AQAB","kid":"{kid}"}}]}}"#)
}

/// A world of one follower and a server that answers as it is told.
struct World {
    published: watch::Sender<Option<Published>>,
    events: mpsc::UnboundedReceiver<(SourceId, Event)>,
    answer: Arc<Mutex<Result<String, String>>>,
    asked: Arc<Mutex<Vec<(String, Instant)>>>,
    snapshot: Arc<Snapshot>,
    // The follower holds it weakly.
    _writer: mpsc::UnboundedSender<(SourceId, Event)>,
}

impl World {
    fn new() -> World {
        let (publish, published) = watch::channel(None);
        let (writer, events) = mpsc::unbounded_channel();
        let answer = Arc::new(Mutex::new(Ok(KEYS.to_owned())));
        let asked: Arc<Mutex<Vec<(String, Instant)>>> = Arc::default();
        let (answers, seen) = (answer.clone(), asked.clone());
        let fetch: Fetch = Arc::new(move |source, _| {
            let name = source.name().unwrap_or_default();
            seen.lock().unwrap().push((name.clone(), Instant::now()));
            let answer = answers.lock().unwrap().clone();
            Box::pin(async move { if name.contains("silent") { std::future::pending().await } else { answer } })
        });
        let id = Merge::new(1).1[0];
        let following = Following { id, refresh: Duration::from_secs(1200), fetch, writer: writer.downgrade() };
        tokio::spawn(follow(following, published));
        World { published: publish, events, answer, asked, snapshot: Snapshot::empty(), _writer: writer }
    }

    fn put(&mut self, name: &str, rules: &str) {
        let yaml = format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  jwtRules:\n{rules}"
        );
        let object = parse_documents(&yaml, &"a.yaml".into()).objects.remove(0).unwrap();
        self.publish(Change::Apply(Arc::new(object)));
    }

    fn publish(&mut self, change: Change) {
        self.snapshot = self.snapshot.apply([change]);
        self.published.send_replace(Some(Published { snapshot: self.snapshot.clone() }));
    }

    fn answers(&self, answer: Result<String, &str>) {
        *self.answer.lock().unwrap() = answer.map_err(str::to_owned);
    }

    /// What is said within a time, one line each.
    async fn said(&mut self, time: Duration) -> Vec<String> {
        let end = Instant::now() + time;
        let mut all = Vec::new();
        while let Ok(Some((_, event))) = tokio::time::timeout_at(end, self.events.recv()).await {
            all.push(match event {
                Event::Apply(object) => match &*object {
                    Object::IssuerKeys(found) => format!("{} = {}", found.meta.name, found.keys.len()),
                    other => panic!("{other:?}"),
                },
                Event::Delete(key) => format!("no {}", key.name),
                Event::Warnings(file, list) => {
                    format!("{file}: {}", list.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
                }
                other => panic!("{other:?}"),
            });
        }
        all
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_and_refreshed() {
    let mut world = World::new();
    world.put("a", "  - {issuer: 'https://a.example/', jwksUri: 'https://a.example/keys'}\n  - {issuer: 'https://b.example/'}\n");
    let openid = "openid https://b.example/.well-known/openid-configuration";
    let mut first = world.said(SECOND).await;
    first.sort();
    assert_eq!(first, [format!("https://a.example/keys = {}", KEYS.len()), format!("{openid} = {}", KEYS.len())]);
    // Somebody else wants the same, and nothing is wanted that is written down.
    world.put("b", &format!("  - {{issuer: x, jwksUri: 'https://a.example/keys'}}\n  - {{issuer: z, jwks: '{KEYS}'}}\n"));
    assert_eq!((world.said(SECOND).await, world.asked()), (vec![], 2));
    // The same again is no news; others are.
    assert_eq!((world.said(SECOND * 1205).await, world.asked()), (vec![], 4));
    world.answers(Ok(keys(12345)));
    assert_eq!((world.said(SECOND * 1205).await.len(), world.asked()), (2, 6));
    // What nobody wants any more goes.
    let gone = |name: &str| Change::Delete(Key::new(Kind::RequestAuthentication, "shop", name));
    world.publish(gone("a"));
    assert_eq!(world.said(SECOND).await, [format!("no {openid}")]);
    world.publish(gone("b"));
    assert_eq!(world.said(SECOND * 5000).await, ["no https://a.example/keys"]);
    let asked = world.asked();
    world.said(SECOND * 5000).await;
    assert_eq!(world.asked(), asked);
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_is_down() {
    let mut world = World::new();
    world.answers(Err("connection refused"));
    world.put("a", "  - {issuer: i, jwksUri: 'https://a.example/keys'}\n");
    let line = |why: &str, effect: &str| {
        format!(
            "a.yaml: a.yaml:6: RequestAuthentication shop/a: spec.jwtRules[0].jwksUri: the keys cannot be fetched from https://a.example/keys: {why}: {effect}"
        )
    };
    let none = "no token of this issuer passes";
    let first = world.said(Duration::from_millis(100)).await;
    assert_eq!(first, [line("connection refused", none)]);
    // Promptly at first, then less and less often, and never less than once a minute.
    world.said(SECOND * 600).await;
    let times: Vec<Instant> = world.asked.lock().unwrap().iter().map(|(_, at)| *at).collect();
    let gaps: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps[0] <= SECOND && gaps.iter().all(|gap| *gap <= SECOND * 61), "{gaps:?}");
    assert!((12..40).contains(&gaps.len()), "{gaps:?}");
    // What is no key set is no answer.
    for (text, why) in [("<html>", "what was fetched is no JSON"), ("{\"keys\":[]}", "what was fetched has no key")] {
        world.answers(Ok(text.to_owned()));
        let said = world.said(SECOND * 61).await;
        assert!(said[0].contains(why) && said[0].ends_with(none), "{said:?}");
    }
    world.answers(Ok(KEYS.to_owned()));
    assert_eq!(world.said(SECOND * 61).await, [format!("https://a.example/keys = {}", KEYS.len()), "a.yaml: ".to_owned()]);
    // Down for longer than keys are good: the last good ones stay.
    world.answers(Err("the answer is 503"));
    let said = world.said(SECOND * 5000).await;
    assert!(said.iter().all(|said| *said == line("the answer is 503", "the last good ones stay")), "{said:?}");
    assert!(!said.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_is_silent_holds_up_nobody() {
    let mut world = World::new();
    world.put(
        "a",
        "  - {issuer: i, jwksUri: 'https://silent.example/keys', timeout: 7s}\n  - {issuer: j, jwksUri: 'https://b.example/keys'}\n",
    );
    assert_eq!(world.said(SECOND).await, [format!("https://b.example/keys = {}", KEYS.len())]);
    let said = world.said(SECOND * 7).await;
    assert!(said.len() == 1 && said[0].contains("spec.jwtRules[0].jwksUri") && said[0].contains("no answer within 7s"), "{said:?}");
}
