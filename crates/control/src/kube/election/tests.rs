use std::sync::{Arc, Mutex};

use kube::core::Status;
use tokio::task::JoinHandle;

use super::*;

/// A Lease as an API server keeps it, and how that server is.
#[derive(Clone, Default)]
struct Cluster(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    lease: Option<Lease>,
    version: u64,
    way: Way,
    /// So many times somebody else writes first.
    conflicts: usize,
    /// Who has written, one after the other.
    writes: Vec<String>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Way {
    #[default]
    Open,
    /// It refuses everything.
    Closed,
    /// It does not answer.
    Silent,
    /// It does what it is asked for, and its answer is lost.
    Lost,
}

impl State {
    fn write(&mut self, name: &str, lease: &Lease) -> Result<Lease, kube::Error> {
        let known = self.lease.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
        if known != lease.metadata.resource_version {
            return Err(api(409));
        }
        self.version += 1;
        let mut written = lease.clone();
        if self.conflicts > 0 {
            self.conflicts -= 1;
            written = self.lease.clone().unwrap_or_default();
        }
        written.metadata.resource_version = Some(self.version.to_string());
        self.lease = Some(written.clone());
        if written.spec != lease.spec {
            return Err(api(409));
        }
        self.writes.push(name.to_owned());
        Ok(written)
    }
}

fn api(code: u16) -> kube::Error {
    kube::Error::Api(Box::new(Status { code, ..Status::default() }))
}

/// One control plane's way to the cluster.
#[derive(Clone)]
struct Place {
    cluster: Cluster,
    name: &'static str,
    way: Arc<Mutex<Way>>,
}

impl Place {
    async fn open(&self) -> Result<(), kube::Error> {
        let way = *self.way.lock().unwrap();
        let ways = [way, self.cluster.0.lock().unwrap().way];
        if ways.contains(&Way::Silent) {
            std::future::pending::<()>().await;
        }
        if ways.contains(&Way::Closed) { Err(api(500)) } else { Ok(()) }
    }
}

impl Store for Place {
    async fn find(&self) -> Result<Option<Lease>, kube::Error> {
        self.open().await?;
        Ok(self.cluster.0.lock().unwrap().lease.clone())
    }

    async fn write(&self, lease: &Lease) -> Result<Lease, kube::Error> {
        self.open().await?;
        let written = self.cluster.0.lock().unwrap().write(self.name, lease);
        if *self.way.lock().unwrap() == Way::Lost {
            std::future::pending::<()>().await;
        }
        written
    }
}

/// A control plane, as far as it wants to lead, and a writer of its own.
struct Running {
    place: Place,
    standing: watch::Receiver<Standing>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    writes: Arc<Mutex<bool>>,
}

/// Says so when a writer is dropped.
struct Writing(Arc<Mutex<bool>>);

impl Drop for Writing {
    fn drop(&mut self) {
        *self.0.lock().unwrap() = false;
    }
}

impl Cluster {
    fn start(&self, name: &'static str) -> Running {
        let place = Place { cluster: self.clone(), name, way: Arc::default() };
        let (told, standing) = watch::channel(Standing::default());
        let (stop, stopping) = watch::channel(false);
        let task = tokio::spawn(run(place.clone(), name.to_owned(), told, stopping));
        let writes = Arc::new(Mutex::new(false));
        let make = {
            let writes = writes.clone();
            move || {
                *writes.lock().unwrap() = true;
                let writing = Writing(writes.clone());
                async move {
                    std::future::pending::<()>().await;
                    drop(writing);
                }
            }
        };
        tokio::spawn(while_leading(standing.clone(), make));
        Running { place, standing, stop, task, writes }
    }

    fn holder(&self) -> Option<String> {
        holder(self.0.lock().unwrap().lease.as_ref()?.spec.as_ref()?).map(str::to_owned)
    }
}

impl Running {
    fn way(&self, way: Way) {
        *self.place.way.lock().unwrap() = way;
    }

    #[track_caller]
    fn check(&self, leads: bool, leader: Option<&str>) {
        assert_eq!(*self.standing.borrow(), Standing { leads, leader: leader.map(str::to_owned) }, "{}", self.place.name);
        assert_eq!(*self.writes.lock().unwrap(), leads, "{}", self.place.name);
    }
}

/// Time goes by; the clock of tests stands still but for this.
async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_millis(seconds * 1000 + 10)).await;
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_the_next_one_follows_at_once() {
    let cluster = Cluster::default();
    let first = cluster.start("first");
    pass(0).await;
    first.check(true, Some("first"));
    let second = cluster.start("second");
    pass(300).await;
    first.check(true, Some("first"));
    second.check(false, Some("first"));
    assert!(cluster.0.lock().unwrap().writes.iter().all(|who| who == "first"), "nobody else writes");
    first.stop.send_replace(true);
    pass(3).await;
    assert!(first.task.is_finished());
    assert!(!*first.writes.lock().unwrap());
    second.check(true, Some("second"));
    let lease = cluster.0.lock().unwrap().lease.clone().unwrap().spec.unwrap();
    assert_eq!((lease.lease_transitions, lease.lease_duration_seconds), (Some(1), Some(15)));
}

/// Whoever ends gives the Lease back: also while it takes it and does not know whether it has, and where somebody else writes meanwhile.
#[tokio::test(start_paused = true)]
async fn it_is_given_back_in_any_case() {
    for (way, conflicts) in [(Way::Open, 0), (Way::Open, 2), (Way::Lost, 0)] {
        let cluster = Cluster::default();
        let first = cluster.start("first");
        first.way(way);
        pass(1).await;
        assert_eq!(cluster.holder().as_deref(), Some("first"));
        first.way(Way::Open);
        cluster.0.lock().unwrap().conflicts = conflicts;
        first.stop.send_replace(true);
        pass(1).await;
        assert!(first.task.is_finished());
        assert_eq!(cluster.holder(), None, "after {conflicts} conflicts");
    }
}

/// What happens to the leader's way to the API server, and who leads so many seconds later: the first one, the second one.
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off() {
    for way in [Way::Closed, Way::Silent] {
        let cluster = Cluster::default();
        let first = cluster.start("first");
        pass(0).await;
        let second = cluster.start("second");
        pass(4).await;
        first.way(way);
        let mut at = 0;
        // Its last success is up to 2 s old. Between the two nobody leads.
        for (second_of_outage, leaders) in [(7, [true, false]), (10, [false, false]), (12, [false, false]), (18, [false, true])] {
            pass(second_of_outage - at).await;
            at = second_of_outage;
            let found = [&first, &second].map(|running| running.standing.borrow().leads);
            assert_eq!(found, leaders, "after {second_of_outage} s");
            assert_eq!([&first, &second].map(|running| *running.writes.lock().unwrap()), leaders, "after {second_of_outage} s");
        }
        first.way(Way::Open);
        pass(12).await;
        first.check(false, Some("second"));
        second.check(true, Some("second"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_concerns_all() {
    let cluster = Cluster::default();
    let (first, second) = (cluster.start("first"), cluster.start("second"));
    pass(0).await;
    let leader = cluster.holder().unwrap();
    cluster.0.lock().unwrap().way = Way::Closed;
    pass(60).await;
    assert!(!first.standing.borrow().leads && !second.standing.borrow().leads, "nobody knows whether it may");
    cluster.0.lock().unwrap().way = Way::Open;
    pass(16).await;
    let leaders = [&first, &second].map(|running| running.standing.borrow().leads);
    assert_eq!(leaders.iter().filter(|leads| **leads).count(), 1, "{leader} was it before");
}

#[tokio::test(start_paused = true)]
async fn what_others_do_to_the_lease() {
    let cluster = Cluster::default();
    let first = cluster.start("first");
    pass(0).await;
    let change = |change: &dyn Fn(&mut Lease)| {
        let mut state = cluster.0.lock().unwrap();
        state.version += 1;
        let version = state.version.to_string();
        let lease = state.lease.as_mut().unwrap();
        lease.metadata.resource_version = Some(version);
        change(lease);
    };
    // Somebody writes a label between.
    change(&|lease| lease.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into()));
    pass(20).await;
    first.check(true, Some("first"));
    assert_eq!(cluster.0.lock().unwrap().lease.as_ref().unwrap().metadata.labels.as_ref().unwrap()["a"], "b");
    // Somebody says that another one leads: that is to be believed, for as long as it may be.
    change(&|lease| lease.spec.as_mut().unwrap().holder_identity = Some("other".to_owned()));
    pass(3).await;
    first.check(false, Some("other"));
    pass(18).await;
    first.check(true, Some("first"));
    cluster.0.lock().unwrap().lease = None;
    pass(3).await;
    first.check(true, Some("first"));
    // It is not there any more: whoever has taken it has it.
    first.task.abort();
    let second = cluster.start("second");
    pass(2).await;
    second.check(false, Some("first"));
    // The same pod is started again.
    let again = cluster.start("first");
    pass(0).await;
    again.check(true, Some("first"));
}

/// One look at a Lease: who holds it, since how many seconds that is seen, and for how long it is.
#[test]
fn whose_it_is() {
    let check = |holder: Option<&str>, since: u64, lasts: Option<i32>, takes: bool| {
        let spec = LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: lasts,
            // Whatever another's clock says.
            renew_time: Some(MicroTime(Timestamp::MIN)),
            ..LeaseSpec::default()
        };
        let lease = Lease { spec: Some(spec), ..Lease::default() };
        let mut candidate = Candidate::new("me".to_owned());
        let now = Instant::now();
        candidate.step(Some(&lease), now, Timestamp::UNIX_EPOCH);
        let step = candidate.step(Some(&lease), now + Duration::from_secs(since), Timestamp::UNIX_EPOCH);
        let taken = step.and_then(|lease| lease.spec?.holder_identity);
        assert_eq!(taken.as_deref(), takes.then_some("me"), "{holder:?} {since} {lasts:?}");
    };
    check(None, 0, None, true);
    check(Some(""), 0, Some(15), true);
    check(Some("me"), 0, Some(15), true);
    check(Some("other"), 0, Some(15), false);
    check(Some("other"), 14, Some(15), false);
    check(Some("other"), 15, Some(15), true);
    check(Some("other"), 15, Some(60), false);
    check(Some("other"), 14, None, false);
    check(Some("other"), 15, Some(-1), true);
}
