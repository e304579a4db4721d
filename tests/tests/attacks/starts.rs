//! Starts: programs that hang in their exec, more jobs than may run, a broker without descriptors.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use job_api::client::Client;
use job_api::v1::ListJobsRequest;
use job_api::v1::job::State;
use job_tests::attack::{self, Attack, Attacker, form};
use job_tests::{Env, api, eventually};
use tonic::Code;

use crate::block_on;

/// Holds a write lease on a file, fcntl(2): whoever executes it waits for up to
/// /proc/sys/fs/lease-break-time. The signal that asks for it is ignored.
const LEASE: &str = "$SIG{IO} = 'IGNORE'; $| = 1; open(F, '<', $ARGV[0]) or die; \
                     fcntl(F, 1024, 1) or die \"F_SETLEASE: $!\"; print \"held\\n\"; sleep 100";

struct Lease(Child);

impl Lease {
    fn hold(program: &Path) -> Lease {
        let mut command = Command::new("perl");
        let mut child =
            command.args(["-e", LEASE]).arg(program).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "held\n");
        Lease(child)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts of one identity whose programs do not run yet; others wait, and are no jobs.
const AT_ONCE: usize = 32;

async fn starting(client: &mut Client) -> usize {
    let states = vec![State::Starting.into()];
    let request = ListJobsRequest { states, page_size: 1000, ..Default::default() };
    client.list_jobs(request).await.unwrap().into_inner().jobs.len()
}

#[test]
fn programs_that_hang_in_their_exec_take_no_thread_and_hold_up_nobody() {
    let env = Env::start();
    let program = env.shared().join("hangs");
    std::fs::copy("/bin/true", &program).unwrap();
    let count: usize = form(100, 500);
    let attack = Attack::new("item 7: starts of a program under a write lease").peak_mib(128);
    let verdict = attack::measure(&env, &attack, || {
        let lease = Lease::hold(&program);
        let words = [format!("starts={count}"), format!("program={}", program.display())];
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let attacker = Attacker::start(&env, "mallory", "starts", &words);
        block_on(async {
            let mut client = env.client("mallory").await;
            let hang = async || (starting(&mut client).await == AT_ONCE).then_some(());
            eventually("as many hang as may", hang).await;
            tokio::time::sleep(Duration::from_secs(1)).await; // the bystander's calls while they do
            assert_eq!(starting(&mut client).await, AT_ONCE, "the others wait for their turn");
        });
        drop(lease);
        attacker.finish()
    });
    assert_eq!(verdict.seen["started"], count, "when they are let go, all of them run");
    assert!(verdict.broker.threads < 80, "{} threads", verdict.broker.threads);
    verdict.assert();
}

#[test]
fn no_more_jobs_run_than_may_and_a_repetition_is_answered_all_the_same() {
    let mut env = Env::builder().config("max_running = 3").start();
    let spec = || api::spec(&["sleep", "1000"]);
    let ids = block_on(async {
        let client = env.client("ann").await;
        let start = |n: usize| {
            let mut client = client.clone();
            async move { api::try_request(&mut client, spec(), &format!("r{n}")).await }
        };
        let mut running = tokio::task::JoinSet::new();
        (0..12).for_each(|n| _ = running.spawn(start(n)));
        let (mut ids, mut refused) = (Vec::new(), 0);
        while let Some(started) = running.join_next().await {
            match started.unwrap() {
                Ok(job) => ids.push((job.request_id.clone(), job.id)),
                Err(status) => {
                    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                    assert_eq!(api::reason(&status), "MAX_RUNNING");
                    assert!(status.message().contains("3 jobs are running"), "{status:?}");
                    refused += 1;
                }
            }
        }
        assert_eq!((ids.len(), refused), (3, 9));
        ids
    });
    env.restart_broker(); // which takes over all that run
    block_on(async {
        let mut client = env.client("ann").await;
        let refused = api::try_start(&mut client, spec()).await.unwrap_err();
        assert_eq!(api::reason(&refused), "MAX_RUNNING");
        let (request, id) = &ids[0];
        let again = api::try_request(&mut client, spec(), request).await.unwrap();
        assert_eq!(again.id, *id, "a repetition takes no place");
        api::stop(&mut client, id, Duration::ZERO).await;
        api::ended(&mut client, id).await;
        let free = async || api::try_start(&mut client, spec()).await.ok();
        eventually("the place of the one that has ended is free", free).await;
    });
}

#[test]
fn a_broker_without_descriptors_refuses_starts_and_starts_again_when_it_has_some() {
    let env = Env::start();
    let pid = env.broker().pid().to_string();
    block_on(async {
        let mut client = env.client("ann").await;
        api::start(&mut client, api::spec(&["true"])).await;
        let limited = Command::new("prlimit").args(["--pid", &pid, "--nofile=64:64"]).status();
        assert!(limited.unwrap().success());
        let mut held = Vec::new();
        let full = async {
            while held.len() < 100 {
                match tokio::time::timeout(Duration::from_secs(1), env.try_client("eve")).await {
                    Ok(Some(other)) => held.push(other),
                    _ => break, // accepted later, or never
                }
            }
        };
        full.await;
        let mut refused = 0;
        for _ in 0..5 {
            let Err(status) = api::try_start(&mut client, api::spec(&["true"])).await else {
                continue;
            };
            assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
            assert_eq!(api::reason(&status), "HOST_SHORTAGE", "{status:?}");
            assert!(!status.message().contains('/'), "no path of the broker's: {status:?}");
            refused += 1;
        }
        assert!(refused > 0, "{} connections are not enough", held.len());
        // No list leaves jobs out for want of descriptors.
        match client.list_jobs(ListJobsRequest::default()).await {
            Ok(list) => assert_eq!(list.into_inner().jobs.len(), 6 - refused),
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
        }
        drop(held);
        let works = async || api::try_start(&mut client, api::spec(&["true"])).await.ok();
        eventually("the broker has noticed that they are gone", works).await;
        let list = client.list_jobs(ListJobsRequest::default()).await.unwrap().into_inner();
        assert_eq!(list.jobs.len(), 7 - refused, "no job is kept of a start that was refused");
        for n in 0..40 {
            let started = api::try_start(&mut client, api::spec(&["true"])).await;
            assert!(started.is_ok(), "start {n}: {started:?}");
        }
    });
}
