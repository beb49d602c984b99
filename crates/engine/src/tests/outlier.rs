//! Outlier detection: what it takes to leave a host out, how many, and for how long.

use std::{sync::Arc, time::Duration};

use mizzen_ir::config::{Consecutive, FailurePercentage, Outlier, SuccessRate};

use crate::{
    HealthFlags,
    lb::{ClusterState, HostState, Rng, Shared},
    outlier::Seen,
};

/// Envoy's defaults, but that all hosts may be left out and that only what a test turns on is acted upon.
fn outlier(change: impl FnOnce(&mut Outlier)) -> Outlier {
    let off = Consecutive { count: 5, enforcing: 0 };
    let mut outlier = Outlier {
        interval: Duration::from_secs(10),
        base_ejection: Duration::from_secs(30),
        max_ejection: Duration::from_secs(300),
        max_jitter: Duration::ZERO,
        max_percent: 100,
        always_one: false,
        split: false,
        consecutive_5xx: off,
        consecutive_gateway: off,
        consecutive_local: off,
        success_rate: SuccessRate { minimum_hosts: 5, request_volume: 100, stdev_factor: 1900, enforcing: 0, enforcing_local: 0 },
        failure_percentage: FailurePercentage { threshold: 85, minimum_hosts: 5, request_volume: 50, enforcing: 0, enforcing_local: 0 },
        is_ended_by_checks: true,
        finds_degraded: false,
    };
    change(&mut outlier);
    outlier
}

/// A cluster's hosts and who sweeps them.
struct Bench {
    outlier: Outlier,
    cluster: Arc<ClusterState>,
    hosts: Vec<Arc<HostState>>,
    rng: Rng,
    now: Duration,
    sweep: Option<Duration>,
}

impl Bench {
    fn new(outlier: Outlier, hosts: usize) -> Self {
        let cluster = Shared::default().cluster(&"c".into());
        let hosts: Vec<_> = (0..hosts).map(|n| cluster.host(&format!("10.0.0.{n}:80"))).collect();
        cluster.set_members(hosts.iter().map(|host| (host.clone(), None)));
        Bench { outlier, cluster, hosts, rng: Rng::new(7), now: Duration::from_secs(1), sweep: None }
    }

    fn see(&mut self, host: usize, seen: Seen) {
        if self.cluster.saw(&self.hosts[host], &self.outlier, seen, self.now, &mut self.rng) {
            assert_eq!(self.sweep, None, "one sweeps at a time");
            self.sweep = Some(self.now + self.outlier.interval);
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.sweep.filter(|at| *at <= end) {
            self.now = at;
            let again = self.cluster.sweep(Some(&self.outlier), self.now, &mut self.rng);
            self.sweep = again.then_some(self.now + self.outlier.interval);
        }
        self.now = end;
    }

    fn out(&self, flag: HealthFlags) -> String {
        let out = (0..self.hosts.len()).filter(|n| self.hosts[*n].health.get().any(flag));
        out.map(|n| n.to_string()).collect::<Vec<_>>().join(",")
    }

    /// Steps: `2:500*5` five answers of host 2, `+10` seconds pass, `=0,2` just these are left out.
    fn run(&mut self, script: &str) {
        for (at, step) in script.split_whitespace().enumerate() {
            if let Some(seconds) = step.strip_prefix('+') {
                self.pass(Duration::from_secs(seconds.parse().unwrap()));
            } else if let Some(expected) = step.strip_prefix('=') {
                assert_eq!(self.out(HealthFlags::FAILED_OUTLIER), expected, "step {at} of {script}");
            } else {
                let (host, seen) = step.split_once(':').unwrap();
                let (seen, times) = seen.split_once('*').unwrap_or((seen, "1"));
                let seen = match seen {
                    "fail" => Seen::Failed,
                    "slow" => Seen::TooLong,
                    "conn" => Seen::Connected,
                    "tcp" => Seen::Served,
                    status => Seen::Answer(status.parse().unwrap()),
                };
                for _ in 0..times.parse().unwrap() {
                    self.see(host.parse().unwrap(), seen);
                }
            }
        }
    }
}

fn check(hosts: usize, change: impl FnOnce(&mut Outlier), script: &str) {
    Bench::new(outlier(change), hosts).run(script);
}

const ON: Consecutive = Consecutive { count: 3, enforcing: 100 };

#[test]
fn failures_in_a_row() {
    let any = |o: &mut Outlier| o.consecutive_5xx = ON;
    check(2, any, "0:500*2 = 0:200 0:500*2 = 0:503 =0");
    check(2, any, "0:404*9 = 1:fail 1:slow 1:500 =1");
    check(2, any, "0:tcp 0:fail*2 0:conn = 0:fail =0");
    check(2, |o| o.consecutive_5xx = Consecutive { count: 0, enforcing: 100 }, "0:500*99 =");
    check(2, |o| o.consecutive_5xx = Consecutive { count: 3, enforcing: 0 }, "0:500*99 =");
    let gateway = |o: &mut Outlier| o.consecutive_gateway = ON;
    check(2, gateway, "0:502 0:503 = 0:504 =0");
    check(2, gateway, "0:502*2 0:500 0:502*2 = 0:501 0:505 0:502*2 = 0:502 =0");
    check(2, gateway, "0:fail*2 0:slow =0");
    // Both are counted; what is not acted upon is in nobody's way.
    check(2, |o| (o.consecutive_5xx, o.consecutive_gateway) = (ON, Consecutive { count: 3, enforcing: 0 }), "0:503*3 =0");
    check(2, |o| (o.consecutive_5xx, o.consecutive_gateway) = (Consecutive { count: 9, enforcing: 100 }, ON), "0:503*3 =0");
}

#[test]
fn failures_of_the_way_counted_apart() {
    let local = |o: &mut Outlier| (o.split, o.consecutive_local, o.consecutive_5xx) = (true, ON, Consecutive { count: 2, enforcing: 100 });
    check(2, local, "0:fail*2 = 0:slow =0");
    check(2, local, "0:fail*2 0:conn 0:fail*2 = 0:tcp 0:fail*2 = 0:200 0:fail*2 =");
    // An error that a host answers with says nothing of the way.
    check(2, local, "0:fail*2 0:500 0:fail =0");
    check(2, local, "0:500*2 =0");
    check(2, |o| (o.split, o.consecutive_gateway) = (true, ON), "0:500*9 = 0:503*3 =0");
    // Not told apart, the way's failures are no detector of their own.
    check(2, |o| o.consecutive_local = ON, "0:fail*9 =");
}

#[test]
fn how_many_may_be_left_out() {
    let most = |percent, always_one| {
        move |o: &mut Outlier| {
            (o.consecutive_5xx, o.max_percent, o.always_one) = (Consecutive { count: 1, enforcing: 100 }, percent, always_one)
        }
    };
    check(10, most(10, false), "0:500 =0 1:500 =0");
    check(9, most(10, false), "0:500 =");
    check(9, most(10, true), "0:500 =0 1:500 =0");
    check(4, most(50, false), "0:500 1:500 2:500 =0,1");
    check(4, most(0, true), "3:500 0:500 =3");
    check(4, most(0, false), "3:500 =");
    check(3, most(100, false), "0:500 1:500 2:500 =0,1,2");
    // Back in, another one may go.
    check(2, most(50, false), "0:500 1:500 =0 +31 0:200 +10 1:500 =1");
}

#[test]
fn how_long() {
    let quick = |o: &mut Outlier| o.consecutive_5xx = Consecutive { count: 1, enforcing: 100 };
    // Sweeps are 10 s apart from the first answer on.
    check(2, quick, "0:500 =0 +29 =0 +1 =");
    check(2, quick, "0:200 +5 0:500 =0 +34 =0 +1 =");
    // Longer each time, as long as it was well for less than an interval.
    check(2, quick, "0:500 +30 = 0:500 +59 =0 +1 = 0:500 +89 =0 +1 =");
    // One less for each interval that it was well.
    check(2, quick, "0:500 +30 = 0:500 +60 = +20 0:500 +29 =0 +1 =");
    check(2, quick, "0:500 +30 = 0:500 +60 = +10 0:500 +59 =0 +1 =");
    // Never longer than the longest time; and not long to shrink from there.
    let short = |o: &mut Outlier| (o.consecutive_5xx, o.max_ejection) = (Consecutive { count: 1, enforcing: 100 }, Duration::from_secs(60));
    check(2, short, "0:500 +30 0:500 +60 = 0:500 +59 =0 +1 = 0:500 +60 = +30 0:500 +29 =0 +1 =");
    // What is not failing any more is not ejected at once again: counting begins anew.
    check(2, |o| o.consecutive_5xx = ON, "0:500*5 =0 +30 = 0:500*2 = 0:500 =0");
}

#[test]
fn jitter() {
    let mut ends = Vec::new();
    for seed in 0..20 {
        let mut bench = Bench::new(
            outlier(|o| (o.consecutive_5xx, o.max_jitter) = (Consecutive { count: 1, enforcing: 100 }, Duration::from_secs(60))),
            1,
        );
        bench.rng = Rng::new(seed);
        bench.run("0:500 =0 +29 =0");
        let mut seconds = 29;
        while bench.out(HealthFlags::FAILED_OUTLIER) == "0" {
            bench.run("+1");
            seconds += 1;
        }
        ends.push(seconds);
    }
    assert!(ends.iter().all(|end| (30..=90).contains(end) && end % 10 == 0), "{ends:?}");
    ends.sort_unstable();
    ends.dedup();
    assert!(ends.len() > 3, "{ends:?}");
}

#[test]
fn enforced_by_chance() {
    let mut bench = Bench::new(outlier(|o| o.consecutive_5xx = Consecutive { count: 1, enforcing: 30 }), 1000);
    for host in 0..1000 {
        bench.see(host, Seen::Answer(500));
    }
    let out = bench.out(HealthFlags::FAILED_OUTLIER).split(',').count();
    assert!((250..350).contains(&out), "{out}");
}

#[test]
fn shares_of_successes() {
    let rate = |o: &mut Outlier| o.success_rate.enforcing = 100;
    let well = "1:200*100 2:200*100 3:200*100 4:200*100";
    // Mean 90 %, deviation 20 %: below 52 %.
    check(5, rate, &format!("0:200*50 0:500*50 {well} = +10 =0"));
    check(5, rate, &format!("0:200*99 0:500*1 {well} +10 =0"));
    check(5, |o| (o.success_rate.enforcing, o.success_rate.stdev_factor) = (100, 2000), &format!("0:200*50 0:500*50 {well} +10 ="));
    check(5, rate, "0:200*50 1:200*50 2:200*50 3:200*50 4:200*50 0:500*50 1:500*50 2:500*50 3:500*50 4:500*50 +10 =");
    // Too few requests; too few hosts; an interval that is over counts no more.
    check(5, rate, &format!("0:200*49 0:500*50 {well} +10 ="));
    check(4, rate, "0:500*100 1:200*100 2:200*100 3:200*100 +10 =");
    check(5, rate, &format!("0:500*50 {well} +10 = 0:500*50 {well} +10 ="));
    check(5, |o| o.success_rate.enforcing = 0, &format!("0:500*100 {well} +10 ="));
    // Only failures of the way; an error that was answered is none.
    let way = |o: &mut Outlier| (o.split, o.success_rate.enforcing_local) = (true, 100);
    let reached = "1:conn*100 2:conn*100 3:conn*100 4:conn*100";
    check(5, way, &format!("0:conn*50 0:fail*50 {reached} +10 =0"));
    check(5, way, &format!("0:conn*100 0:500*100 {reached} +10 ="));
    check(5, |o| o.success_rate.enforcing_local = 100, &format!("0:fail*100 {reached} +10 ="));
}

#[test]
fn shares_of_failures() {
    let share = |o: &mut Outlier| o.failure_percentage.enforcing = 100;
    let most = "1:500*40 1:200*10 2:200*50 3:200*50 4:200*50";
    check(5, share, &format!("0:500*43 0:200*7 {most} +10 =0"));
    check(5, share, &format!("0:500*42 0:200*8 {most} +10 ="));
    check(5, share, &format!("0:500*49 {most} +10 ="));
    check(4, share, "0:500*50 1:200*50 2:200*50 3:200*50 +10 =");
    check(
        4,
        |o| (o.failure_percentage.enforcing, o.failure_percentage.minimum_hosts) = (100, 4),
        "0:500*50 1:200*50 2:200*50 3:200*50 +10 =0",
    );
    check(5, |o| o.failure_percentage.enforcing = 0, &format!("0:500*50 {most} +10 ="));
    let way = |o: &mut Outlier| (o.split, o.failure_percentage.enforcing_local) = (true, 100);
    check(5, way, "0:slow*50 1:conn*50 2:conn*50 3:conn*50 4:conn*50 +10 =0");
    check(5, way, "0:500*50 1:200*50 2:200*50 3:200*50 4:200*50 +10 =");
}

#[test]
fn rates_are_told() {
    let mut bench = Bench::new(outlier(|_| {}), 5);
    bench.run("0:200*75 0:500*25 1:200*100 2:200*100 3:200*100 4:200*100 +10");
    assert_eq!(bench.hosts[0].monitor.rates(), [Some(75.0), None]);
    let (mean, least) = bench.cluster.rates().answers.unwrap();
    assert!((mean - 95.0).abs() < 0.001 && (least - 76.0).abs() < 0.001, "{mean} {least}");
    bench.run("+10");
    assert_eq!((bench.hosts[0].monitor.rates(), bench.cluster.rates().answers), ([None, None], None));
    assert_eq!(bench.sweep, None, "who has nothing to do does nothing");
}

#[test]
fn degraded_hosts() {
    let mut bench = Bench::new(outlier(|o| o.finds_degraded = true), 2);
    let degraded = |bench: &mut Bench| {
        let (host, now) = (bench.hosts[0].clone(), bench.now);
        bench.cluster.saw_degraded(&host, &bench.outlier, now, &mut bench.rng);
        bench.see(0, Seen::Answer(200));
    };
    let is = |bench: &Bench| bench.out(HealthFlags::DEGRADED_OUTLIER) == "0";
    degraded(&mut bench);
    bench.run("+29 =");
    assert!(is(&bench));
    bench.run("+1");
    assert!(!is(&bench));
    degraded(&mut bench);
    bench.run("+59");
    assert!(is(&bench));
    bench.run("+1 =");
    assert!(!is(&bench), "twice as long the second time");
    let mut off = Bench::new(outlier(|_| {}), 2);
    degraded(&mut off);
    assert!(!is(&off));
}

#[test]
fn what_ends_it() {
    let quick = |o: &mut Outlier| o.consecutive_5xx = Consecutive { count: 1, enforcing: 100 };
    // An active check that succeeds, unless that is turned off.
    for (ends, expected) in [(true, ""), (false, "0")] {
        let mut bench =
            Bench::new(outlier(|o| (o.consecutive_5xx.count, o.consecutive_5xx.enforcing, o.is_ended_by_checks) = (1, 100, ends)), 2);
        bench.run("0:500 =0");
        bench.cluster.checked_well(&bench.hosts[0], &bench.outlier, bench.now);
        assert_eq!(bench.out(HealthFlags::FAILED_OUTLIER), expected);
    }
    // A configuration without outlier detection.
    let mut bench = Bench::new(outlier(quick), 2);
    bench.run("0:500 +30 0:500 =0");
    assert!(!bench.cluster.sweep(None, bench.now, &mut bench.rng));
    bench.sweep = None;
    bench.run("= 0:500 +29 =0 +1 =");
    // Hosts that are gone are not counted.
    let mut bench = Bench::new(outlier(|o| (o.consecutive_5xx.count, o.consecutive_5xx.enforcing, o.max_percent) = (1, 100, 50)), 4);
    bench.run("0:500 1:500 2:500 =0,1");
    bench.cluster.set_members(bench.hosts[1..].iter().map(|host| (host.clone(), None)));
    bench.run("2:500 =0,1");
    bench.cluster.set_members(bench.hosts[2..].iter().map(|host| (host.clone(), None)));
    bench.run("2:500 =0,1,2 1:500 0:500");
}
