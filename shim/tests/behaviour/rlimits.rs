//! The resource limits of the workload's processes.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use job_shim::launch::{Launch, Rlimit};
use job_shim::wire::{Failed, Step, ToShim};
use nix::sys::resource::Resource;

use crate::broker::{Shim, script};
use crate::host::Host;

fn limited(text: &str, resource: Resource, soft: u64, hard: u64) -> Launch {
    let mut launch = script(text);
    launch.rlimits = vec![Rlimit { resource: resource as u32, soft, hard }];
    launch
}

fn output_of(launch: &Launch) -> Option<String> {
    let mut shim = Shim::start(Host::new()?, launch);
    shim.ended();
    Some(shim.stdout())
}

#[test]
fn a_limit_that_is_named_replaces_its_default_and_no_other() {
    let text = "ulimit -n; ulimit -Hn; ulimit -c";
    let launch = limited(text, Resource::RLIMIT_NOFILE, 20, 30);
    let Some(text) = output_of(&launch) else { return };
    assert_eq!(text, "20\n30\n0\n");
}

#[test]
fn fewer_open_files_than_a_start_needs_do_not_hinder_it() {
    // No file can be opened, and so a program that is linked dynamically cannot run either.
    let launch = limited("exit 3", Resource::RLIMIT_NOFILE, 0, 0);
    let Some(host) = Host::new() else { return };
    let mut shim = Shim::start(host, &launch);
    shim.exited();
    shim.ended();
}

#[test]
fn a_file_larger_than_its_limit_ends_the_writer_and_not_the_logs() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let file = directory.path().join("file");
    let text = format!(
        "head -c 100000 /dev/zero; exec dd if=/dev/zero of={} bs=8192 count=1",
        file.display()
    );
    let Some(host) = Host::new() else { return };
    let mut shim = Shim::start(host, &limited(&text, Resource::RLIMIT_FSIZE, 4096, 4096));
    assert_eq!(shim.exited().wait_status & 0x7f, libc::SIGXFSZ);
    assert_eq!(shim.ended().progress.stdout, 100_000);
    assert!(fs::metadata(file).unwrap().len() <= 4096);
}

#[test]
fn limits_that_the_kernel_refuses_fail_the_start() {
    let refused = [
        (limited("true", Resource::RLIMIT_CORE, 2, 1), libc::EINVAL),
        // Above fs.nr_open it is nobody's right.
        (limited("true", Resource::RLIMIT_NOFILE, 1, u64::MAX), libc::EPERM),
    ];
    for (launch, errno) in refused {
        let Some(host) = Host::new() else { return };
        let mut shim = Shim::spawn(host, &launch);
        shim.hello();
        shim.wire.send(&ToShim::Go);
        assert_eq!(shim.failed(), Failed { step: Step::ResourceLimits, errno });
    }
}
