//! Limits of a disk, on a real block device.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::Path;

use job_api::client::Client;
use job_api::v1::{IoMax, Job, JobSpec, Limits, UpdateJobRequest};
use job_tests::host::{self, Need};
use job_tests::measure;
use job_tests::{Env, api};

const RATE: u64 = 5_000_000;

/// Past the page cache, again and again over the same ten megabytes.
fn writer(file: &Path, block: &str) -> JobSpec {
    let options = format!("bs={block} count=2400 conv=notrunc oflag=direct");
    let file = file.display();
    api::script(&format!("while :; do dd if=/dev/zero of={file} {options} 2>/dev/null; done"))
}

fn reader(file: &Path, block: &str) -> JobSpec {
    let file = file.display();
    api::script(&format!("while :; do dd if={file} of=/dev/null bs={block} iflag=direct; done"))
}

fn limited(mut spec: JobSpec, io_max: IoMax) -> JobSpec {
    spec.limits = Some(Limits { io_max: vec![io_max], ..Default::default() });
    spec
}

/// A file to read from, on the disk and not in the cache.
fn file(disk: &Path) -> std::path::PathBuf {
    let path = disk.join("file");
    let of = format!("of={}", path.display());
    let mut dd = std::process::Command::new("dd");
    dd.args(["if=/dev/zero", &of, "bs=1M", "count=20", "oflag=direct", "status=none"]);
    assert!(dd.status().unwrap().success());
    path
}

/// The disk that a job has a limit on, `MAJOR:MINOR`.
fn disk_of(job: &Job) -> String {
    let name = job.limits.iter().find_map(|limit| limit.name.strip_prefix("io.max "));
    name.unwrap_or_else(|| panic!("{:#?}", job.limits)).to_owned()
}

/// Asserts the rate of a counter. With a client of its own each, so that several are measured at once:
/// the disk can do a hundred times as much, and nobody waits for another.
async fn assert_rate(client: &Client, env: &Env, job: &Job, what: (&str, &str), expected: u64) {
    let mut client = client.clone();
    measure::assert_io_rate((&mut client, env), &job.id, what, expected as f64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_writer_takes_its_rate_by_path_by_default_and_by_device() {
    if !host::has(&[Need::Io, Need::Disk]) {
        return;
    }
    let env = Env::start();
    let disk = host::disk();
    let mut client = env.client("user-a").await;
    let path = disk.path().display().to_string();
    let file = |n: u32| disk.path().join(format!("file-{n}"));
    let wbps = IoMax { wbps: Some(RATE), ..Default::default() };

    let by_path = IoMax { path: path.clone(), ..wbps.clone() };
    let by_path = api::start(&mut client, limited(writer(&file(0), "64k"), by_path)).await;
    let device = disk_of(&by_path);
    let mut by_default = limited(writer(&file(1), "64k"), wbps.clone());
    by_default.working_directory = path;
    let by_default = api::start(&mut client, by_default).await;
    assert_eq!(disk_of(&by_default), device);
    let by_device = IoMax { device: device.clone(), ..wbps };
    let by_device = api::start(&mut client, limited(writer(&file(2), "64k"), by_device)).await;

    let what = (device.as_str(), "wbytes");
    tokio::join!(
        assert_rate(&client, &env, &by_path, what, RATE),
        assert_rate(&client, &env, &by_default, what, RATE),
        assert_rate(&client, &env, &by_device, what, RATE),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reader_takes_its_rate() {
    if !host::has(&[Need::Io, Need::Disk]) {
        return;
    }
    let env = Env::start();
    let disk = host::disk();
    let file = file(disk.path());
    let mut args = vec!["start", "-w", disk.path().to_str().unwrap()];
    args.extend(["--device-read-bps", "5000000", "--"]);
    let spec = reader(&file, "64k");
    args.extend(spec.argv.iter().map(String::as_str));
    let id = env.jobctl("user-a", &args).id();
    let mut client = env.client("user-a").await;
    let job = api::job(&mut client, &id).await;
    assert_rate(&client, &env, &job, (&disk_of(&job), "rbytes"), RATE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn operations_per_second_are_limited_for_reads_and_writes_apart() {
    if !host::has(&[Need::Io, Need::Disk]) {
        return;
    }
    let env = Env::start();
    let disk = host::disk();
    let mut client = env.client("user-a").await;
    let path = disk.path().display().to_string();
    let io_max = IoMax { path, riops: Some(100), wiops: Some(50), ..Default::default() };
    let reads = reader(&file(disk.path()), "4k");
    let reads = api::start(&mut client, limited(reads, io_max.clone())).await;
    let writes = writer(&disk.path().join("written"), "4k");
    let writes = api::start(&mut client, limited(writes, io_max)).await;
    let device = disk_of(&reads);
    tokio::join!(
        assert_rate(&client, &env, &reads, (&device, "rios"), 100),
        assert_rate(&client, &env, &writes, (&device, "wios"), 50),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_update_changes_the_rate_that_it_names_and_leaves_the_others_of_its_disk() {
    if !host::has(&[Need::Io, Need::Disk]) {
        return;
    }
    let env = Env::start();
    let disk = host::disk();
    let mut client = env.client("user-a").await;
    let path = disk.path().display().to_string();
    let old = IoMax { path, wbps: Some(RATE), riops: Some(70), ..Default::default() };
    let spec = limited(writer(&disk.path().join("written"), "64k"), old.clone());
    let id = api::start(&mut client, spec).await.id;
    let job = api::job(&mut client, &id).await;
    let device = disk_of(&job);
    let name = format!("io.max {device}");
    assert!(api::limit(&job, &name).applied().contains("riops=70"), "{:?}", job.limits);

    let new = IoMax { wbps: Some(3 * RATE), riops: None, ..old };
    let limits = Some(Limits { io_max: vec![new], ..Default::default() });
    let request = UpdateJobRequest { id: job.id.clone(), limits, ..Default::default() };
    let job = api::update(&mut client, request).await.unwrap();
    let applied = api::limit(&job, &name).applied();
    assert!(applied.contains("wbps=15000000") && applied.contains("riops=70"), "{applied}");
    assert_rate(&client, &env, &job, (&device, "wbytes"), 3 * RATE).await;
}
