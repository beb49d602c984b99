//! Tells the person who started the mesh what its control plane finds wrong with what is in force: once when it comes, and when it is over.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use http::Method;
use mizzen_analyze::{Level, Message};

use super::{
    mesh::{Mesh, is_set},
    say,
};

/// After a change the control plane is asked so many times, each a little later: it looks at what is in force once nothing changes any more.
const ASKED: [Duration; 3] = [Duration::from_millis(600), Duration::from_secs(1), Duration::from_secs(3)];
/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(5);
/// What is refused or not acted on is told with the document.
const TOLD: [&str; 6] = ["IST0106", "MZ0001", "MZ0002", "MZ0003", "MZ0004", "MZ0007"];

/// Asks after each change, until the mesh ends.
pub(crate) async fn tell(mesh: Arc<Mesh>) {
    let mut objects = mesh.objects.subscribe();
    let mut ending = mesh.ending.subscribe();
    let mut told = BTreeSet::new();
    loop {
        let mut asked = ASKED.into_iter();
        while let Some(after) = asked.next() {
            tokio::select! {
                () = tokio::time::sleep(after) => {}
                changed = objects.changed() => match changed {
                    Ok(()) => asked = ASKED.into_iter(),
                    Err(_) => return,
                },
                () = is_set(&mut ending) => return,
            }
            // A control plane that does not answer is told of elsewhere.
            if let Some(now) = ask(&mesh).await {
                say(&told, &now);
                told = now;
            }
        }
        tokio::select! {
            changed = objects.changed() => if changed.is_err() { return },
            () = is_set(&mut ending) => return,
        }
    }
}

async fn ask(mesh: &Mesh) -> Option<BTreeSet<Message>> {
    let socket = mesh.dir("mizzend/debug.sock");
    let reply = mizzen_net::fetch_unix(&socket, Method::GET, "/debug/analyze", String::new(), WITHIN).await.ok()?;
    let messages: Vec<Message> = serde_json::from_slice(&reply.body).ok().filter(|_| reply.status.is_success())?;
    Some(messages.into_iter().filter(|message| message.code.level > Level::Info && !TOLD.contains(&message.code.id)).collect())
}

/// What identifies a finding that has only moved.
fn core(message: &Message) -> (&'static str, &mizzen_analyze::Id, &str) {
    (message.code.id, &message.id, &message.text)
}

fn say(before: &BTreeSet<Message>, now: &BTreeSet<Message>) {
    let (known, are): (BTreeSet<_>, BTreeSet<_>) = (before.iter().map(core).collect(), now.iter().map(core).collect());
    for message in now.iter().filter(|message| !known.contains(&core(message))) {
        say::finding(message);
    }
    for message in before.iter().filter(|message| !are.contains(&core(message))) {
        say::good(&format!("no more: [{}] {}: {}", message.code.id, message.id, message.text));
    }
}
