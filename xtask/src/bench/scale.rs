//! A start over 1,000 running and 100,000 finished jobs (`--finished`), and lists of them. The finished jobs are copies of one that
//! ran, and each must have an id, an owner, a name and labels of its own.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use job_api::client::Client;
use job_api::v1::job::State;
use job_api::v1::wait_job_request::Until;
use job_api::v1::{GetJobRequest, ListJobsRequest};
use serde_json::{Value, json};

use super::quantile::median;
use super::report::Row;
use super::setup::Bench;
use super::{api, idle, running, usage};
use crate::interrupt;
use crate::site::{Ending, IDENTITIES, Site};

/// The record of a job that is its own.
const SPEC: &str = "spec.json";
/// Jobs of one page.
const PAGE: usize = 100;

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    if let Some(count) = bench.jobs {
        return running::measure(bench, count);
    }
    let running = bench.rounds(100, 1000);
    let finished = bench.finished.unwrap_or_else(|| bench.rounds(10_000, 100_000));
    let rounds = bench.rounds(10, 50);
    let broker = bench.broker()?;
    let site = &broker.site;
    let first = api::runtime()?.block_on(async {
        let mut client = api::client(site).await?;
        let job = api::start(&mut client, &["true"]).await?;
        api::wait(&mut client, &job.id, Until::End).await
    })?;
    idle::start(site, running)?;
    let live = fs::read_dir(site.cgroup()?)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|name| name.len() == 36)
        .context("no job runs")?;
    site.end(Ending::Asked)?;
    let middle = copies(&site.file("state/jobs"), &first.id, finished - 1)?;

    // Without the index, as after an upgrade from a broker that had none.
    let _ = fs::remove_file(site.file("state/finished.idx")); // the file may be absent
    let (_, _, rebuilt) = start(bench, site, &live)?;
    let (mut ready, mut adopted, mut listed) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds(2, 5) {
        site.end(Ending::Killed)?;
        let (up, answers, knows) = start(bench, site, &live)?;
        ready.push(up);
        adopted.push(answers);
        listed.push(knows);
        interrupt::check()?;
    }
    let rss = usage::rss(site.broker_pid().context("the broker has ended")?)?;
    let pages = api::runtime()?.block_on(pages(site, &middle, rounds))?;
    idle::end_all(site)?;
    broker.close()?;
    let what = format!("{running} running and {finished} finished jobs");
    let mut rows =
        vec![
            Row::new(format!("broker ready over {what}"), median(&ready), "s").at_most(2.0),
            Row::new("the same, a running job is answered for", median(&adopted), "s").at_most(2.0),
            Row::new("the same, all of them can be listed", median(&listed), "s").at_most(2.0),
            Row::new("the same, without the index of finished jobs", rebuilt, "s"),
            Row::new("the same, RSS of the broker", rss / 1e6, "MB")
                .at_most(if finished > 100_000 { 400.0 } else { 128.0 }),
        ];
    for (name, took) in pages {
        let name = format!("a page of {PAGE} from {finished}, {name}");
        rows.push(Row::new(name, median(&took), "ms").at_most(20.0));
    }
    Ok(rows)
}

/// Seconds from the start of the process until it accepts connections, has answered for a running job, and has
/// answered a list.
fn start(bench: &Bench, site: &Site, live: &str) -> Result<(f64, f64, f64)> {
    let begin = Instant::now();
    site.start_unasked(&bench.programs)?;
    let ready = begin.elapsed();
    api::runtime()?.block_on(async {
        let mut client = api::client(site).await?;
        let answer = client.get_job(GetJobRequest { id: live.into() }).await?;
        let job = answer.into_inner().job;
        ensure!(job.is_some_and(|job| job.state() == State::Running), "{live} does not run");
        let adopted = begin.elapsed();
        page(&mut client, ListJobsRequest::default()).await?;
        Ok((ready.as_secs_f64(), adopted.as_secs_f64(), begin.elapsed().as_secs_f64()))
    })
}

/// Milliseconds of each kind of request.
async fn pages(site: &Site, middle: &str, rounds: usize) -> Result<Vec<(&'static str, Vec<f64>)>> {
    let mut client = api::client(site).await?;
    let newest = ListJobsRequest { page_size: PAGE as u32, ..Default::default() };
    let any = || ListJobsRequest { states: vec![State::Finished.into()], ..newest.clone() };
    let labels = [("team".to_owned(), "t7".to_owned())].into();
    let asked = [
        ("the newest", newest.clone()),
        ("by state", any()),
        ("by state, from the middle", ListJobsRequest { page_token: middle.to_owned(), ..any() }),
        ("by owner", ListJobsRequest { owner: IDENTITIES[2].into(), ..any() }),
        ("by a label", ListJobsRequest { labels, ..any() }),
        ("by a name", ListJobsRequest { selector: "job-7".into(), ..any() }),
    ];
    let mut all = Vec::new();
    for (name, request) in asked {
        let mut took = Vec::new();
        for _ in 0..rounds {
            let begin = Instant::now();
            page(&mut client, request.clone()).await?;
            took.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        all.push((name, took));
        interrupt::check()?;
    }
    Ok(all)
}

/// Requests a full page.
async fn page(client: &mut Client, request: ListJobsRequest) -> Result<()> {
    let jobs = client.list_jobs(request).await?.into_inner().jobs;
    ensure!(jobs.len() == PAGE, "{} jobs on a page", jobs.len());
    Ok(())
}

/// Makes `count` copies of a finished job, one for each 50 ms before now. Returns the id of one in the middle.
fn copies(jobs: &Path, template: &str, count: usize) -> Result<String> {
    let mut source = jobs.join(template);
    let spec = fs::read(source.join(SPEC)).context("cannot read a finished job")?;
    let spec: Value = serde_json::from_slice(&spec)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_millis())?;
    let mut middle = String::new();
    let names = (count / (2 * PAGE)).max(8); // two pages of each
    for n in 0..count {
        let ms = now - 50 * (count - n) as u64;
        // A UUID of version 7 (RFC 9562): 48 bits of time, version, variant, and a unique number.
        let id = format!("{:08x}-{:04x}-7000-8000-{n:012x}", ms >> 16, ms & 0xffff);
        let changes = json!({
            "id": id, "created_ns": ms * 1_000_000, "request_id": format!("request-{n}"),
            "owner": IDENTITIES[if n % 10 == 0 { 2 } else { 1 }],
            "spec": { "name": format!("job-{}", n % names), "labels": { "team": format!("t{}", n % 20) } },
        });
        let dir = jobs.join(&id);
        copy(&mut source, &dir, &spec, &changes).with_context(|| dir.display().to_string())?;
        if n % 1000 == 0 {
            interrupt::check()?;
        }
        if n == count / 2 {
            middle = id;
        }
    }
    Ok(middle)
}

/// Makes a job with this spec, changed, whose other files are the source's own: a million of them would need 20 GB
/// more. It becomes the source of further jobs once a file has all the links that its file system allows.
fn copy(source: &mut PathBuf, dir: &Path, spec: &Value, changes: &Value) -> Result<()> {
    DirBuilder::new().mode(0o700).create(dir)?;
    let mut is_full = false;
    for entry in fs::read_dir(&source)? {
        let (from, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        if name == SPEC {
            continue;
        }
        match fs::hard_link(&from, dir.join(&name)) {
            Err(e) if e.kind() == io::ErrorKind::TooManyLinks => {
                is_full = true;
                fs::copy(&from, dir.join(&name))?;
            }
            linked => linked?,
        }
    }
    if is_full {
        dir.clone_into(source);
    }
    // Without a checksum, as earlier brokers wrote records.
    let mut spec = spec.clone();
    if let Value::Object(members) = &mut spec {
        members.retain(|name, _| name != "checksum" && name != "crc32");
    }
    overlay(&mut spec, changes);
    fs::write(dir.join(SPEC), serde_json::to_vec(&spec)?)?;
    Ok(())
}

/// Sets the members of `changes` in `value`, at any depth.
fn overlay(value: &mut Value, changes: &Value) {
    match (value, changes) {
        (Value::Object(value), Value::Object(changes)) => {
            for (key, change) in changes {
                overlay(value.entry(key).or_insert(Value::Null), change);
            }
        }
        (value, change) => *value = change.clone(),
    }
}
