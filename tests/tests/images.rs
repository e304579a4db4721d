//! Images: archives of every kind are imported or refused, jobs use them, and nothing of a hostile one is ever anywhere
//! else than in its own directory.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use flate2::Compression;
use flate2::write::GzEncoder;
use job_tests::{Env, host, small_root, until};
use serde_json::json;
use tar::{EntryType, Header};

/// An archive, made by hand: no library would write what is in some.
#[derive(Default, Clone)]
struct Archive(Vec<u8>);

impl Archive {
    fn add(mut self, kind: EntryType, name: &str, link: &str, mode: u32, data: &[u8]) -> Archive {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_mode(mode);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, data: &str) -> Archive {
        self.add(EntryType::Regular, name, "", 0o644, data.as_bytes())
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An OCI layout of these layers, and the digest of its manifest.
fn layout(layers: &[Vec<u8>], config: &serde_json::Value) -> (Vec<u8>, String) {
    let config = json!({"architecture": "amd64", "os": "linux", "config": config}).to_string();
    let descriptor = |bytes: &[u8]| json!({"mediaType": "x", "digest": format!("sha256:{}", sha256(bytes)), "size": bytes.len()});
    let layers_of: Vec<_> = layers.iter().map(|layer| descriptor(layer)).collect();
    let manifest =
        json!({"schemaVersion": 2, "config": descriptor(config.as_bytes()), "layers": layers_of});
    let manifest = manifest.to_string();
    let index =
        json!({"schemaVersion": 2, "manifests": [descriptor(manifest.as_bytes())]}).to_string();
    let mut archive = Archive::default();
    let blobs = layers.iter().map(Vec::as_slice).chain([config.as_bytes(), manifest.as_bytes()]);
    for blob in blobs {
        let name = format!("blobs/sha256/{}", sha256(blob));
        archive = archive.add(EntryType::Regular, &name, "", 0o644, blob);
    }
    let archive = archive.file("oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}");
    (archive.file("index.json", &index).end(), format!("sha256:{}", sha256(manifest.as_bytes())))
}

/// Exit status 0 or what it says.
fn images(env: &Env, arguments: &[&str]) -> Result<String, String> {
    let ran = env.operate(&[&["images"], arguments].concat()).output().unwrap();
    let said = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if ran.status.success() { Ok(said(ran.stdout)) } else { Err(said(ran.stderr)) }
}

fn import(env: &Env, name: &str, archive: &[u8], more: &[&str]) -> Result<String, String> {
    let file = env.path("archive.tar");
    fs::write(&file, archive).unwrap();
    images(env, &[&["import", name, file.to_str().unwrap()], more].concat())
}

/// The directory of an image.
fn tree(env: &Env, name: &str) -> PathBuf {
    let record = fs::read(env.path(&format!("state/images/names/{name}.json"))).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    env.path("state/images/trees").join(record["tree"].as_str().unwrap())
}

fn count(env: &Env, directory: &str) -> usize {
    fs::read_dir(env.path("state/images").join(directory)).map_or(0, Iterator::count)
}

/// A small system as one archive, with tar(1) of this host.
fn small(env: &Env) -> Vec<u8> {
    let root = env.path("small");
    if !root.exists() {
        small_root::make(&root);
    }
    let made = std::process::Command::new("tar").arg("-C").arg(&root).args(["-c", "."]).output();
    made.unwrap().stdout
}

#[test]
fn a_plain_archive_is_a_root_and_its_digest_is_on_record() {
    let env = Env::start();
    let archive = small(&env);
    for (name, bytes) in [("plain", archive.clone()), ("gz:1", gzip(&archive))] {
        import(&env, name, &bytes, &[]).unwrap();
        let image = format!("--image={name}");
        assert_eq!(env.sh(&[&image], "cat /etc/name; ! ls /home 2>/dev/null"), "small\n");
        let id = env.jobctl("user-a", &["start", &image, "--", "cat", "/etc/name"]).id();
        let digest = format!("sha256:{}", sha256(&bytes));
        let status = env.jobctl("user-a", &["status", &id]).expect(0).out();
        assert!(status.contains(&digest) && status.contains("user is ignored"), "{status}");
        let spec = fs::read_to_string(env.path("state/jobs").join(&id).join("spec.json")).unwrap();
        assert!(spec.contains(&digest), "{spec}");
        assert!(images(&env, &["list"]).unwrap().contains(&format!("{name} {digest} ")));
        let info = env.jobctl("user-a", &["info"]).expect(0).out();
        assert!(info.contains(&format!("{name}@{digest}\n")), "{info}");
        assert_eq!(env.sh(&[&format!("{image}@{digest}")], "echo same"), "same\n");
        let other = env.jobctl("user-a", &["run", &format!("{image}@sha256:0"), "--", "true"]);
        assert!(other.err().contains("not \"sha256:0\""), "{}", other.err());
    }
    let absent = env.jobctl("user-a", &["run", "--image=absent", "--", "true"]);
    assert!(absent.err().contains("there is no image \"absent\""), "{}", absent.err());
    let nothing = env.jobctl("user-a", &["run", "--image=plain"]);
    assert!(nothing.err().contains("does not say which program"), "{}", nothing.err());
    env.assert_clean();
}

#[test]
fn layers_lie_upon_each_other_and_say_what_is_run() {
    let env = Env::start();
    let upper = Archive::default()
        .file("etc/.wh.name", "")
        .file("etc/other", "other\n")
        .file("srv/.wh..wh..opq", "")
        .file("srv/new", "new\n");
    let lower = Archive::default().file("srv/old", "old\n");
    let config = json!({
        "Env": ["GREETING=hello", "PATH=/usr/bin", "LD_PRELOAD=/x"], "WorkingDir": "/srv", "User": "root",
        "Entrypoint": ["/usr/bin/sh", "-c"], "Cmd": ["echo $GREETING $LD_PRELOAD; pwd; ls /srv; ls /etc; id -u"],
    });
    let layers = [small(&env), gzip(&lower.end()), upper.end()];
    let (archive, digest) = layout(&layers, &config);
    assert!(import(&env, "app", &archive, &[]).unwrap().starts_with(&format!("app {digest} ")));
    let said = env.jobctl("user-a", &["run", "--image=app"]).expect(0).out();
    assert!(said.starts_with("hello\n/srv\nnew\n") && !said.contains("name\n"), "{said}");
    assert!(said.contains("other\n") && !said.ends_with("\n0\n"), "{said}");
    let info = env.jobctl("user-a", &["info", "-o", "json"]).json();
    assert_eq!(info["images"][0]["argv"][0], "/usr/bin/sh", "{}", info["images"]);
    let own = [
        "run",
        "--image=app",
        "--env=GREETING=bye",
        "--workdir=/etc",
        "--",
        "sh",
        "-c",
        "echo $GREETING; pwd",
    ];
    assert_eq!(env.jobctl("user-a", &own).expect(0).out(), "bye\n/etc\n");
    // One bit of a layer: nothing of it is kept.
    let at = archive.windows(4).position(|bytes| bytes == b"new\n").unwrap();
    let mut other = archive.clone();
    other[at] ^= 1;
    let error = import(&env, "app", &other, &[]).unwrap_err();
    assert!(error.contains("its digest is"), "{error}");
    assert_eq!((count(&env, "trees"), count(&env, "work")), (1, 0));
    assert_eq!(env.jobctl("user-a", &own).expect(0).out(), "bye\n/etc\n");
    env.assert_clean();
}

#[test]
fn what_leads_out_of_an_archive_leads_nowhere() {
    let env = Env::start();
    let victim = env.path("shared");
    fs::write(victim.join("file"), "host\n").unwrap();
    let there = victim.to_str().unwrap();
    let archive = Archive::default;
    for (name, bad) in [
        ("dots", archive().file("a/../../../../../../tmp/evil", "x")),
        ("absolute", archive().file("/tmp/evil", "x")),
        ("hardlink", archive().add(EntryType::Link, "a", "../../../etc/passwd", 0o644, b"")),
        ("hardlink-absolute", archive().add(EntryType::Link, "a", "/etc/passwd", 0o644, b"")),
        ("hardlink-absent", archive().add(EntryType::Link, "a", "etc/passwd", 0o644, b"")),
        (
            "by-link",
            archive().add(EntryType::Symlink, "out", there, 0o777, b"").file("out/new", "x"),
        ),
        (
            "link-by-link",
            archive().add(EntryType::Symlink, "out", there, 0o777, b"").add(
                EntryType::Link,
                "a",
                "out/file",
                0o644,
                b"",
            ),
        ),
    ] {
        let error = import(&env, name, &bad.end(), &[]);
        assert!(error.is_err(), "{name}: {error:?}");
    }
    assert_eq!((count(&env, "names"), count(&env, "trees"), count(&env, "work")), (0, 0, 0));
    // A link whose place there is in the image: the file is there, and not on the host.
    let inside = there.trim_start_matches('/').to_owned();
    let fine = archive()
        .add(EntryType::Directory, &inside, "", 0o777, b"")
        .add(EntryType::Symlink, "out", there, 0o777, b"")
        .file("out/new", "image\n")
        .file("out/file", "image\n");
    import(&env, "fine", &fine.end(), &[]).unwrap();
    assert_eq!(
        fs::read_to_string(tree(&env, "fine").join(&inside).join("new")).unwrap(),
        "image\n"
    );
    assert_eq!(fs::read_to_string(victim.join("file")).unwrap(), "host\n");
    assert!(!victim.join("new").exists() && !Path::new("/tmp/evil").exists());
}

#[test]
fn a_job_that_may_write_owns_what_is_roots_in_its_image_and_the_image_stays_as_it_is() {
    let env = Env::start();
    import(&env, "small", &small(&env), &[]).unwrap();
    if !host::has_kernel(5, 19) {
        return;
    }
    let before = fs::metadata(tree(&env, "small").join("etc")).unwrap();
    let sh = |options: &[&str], script: &str| {
        let words = [&["run", "--image=small"], options, &["--", "sh", "-c", script]].concat();
        env.jobctl("user-a", &words)
    };
    let script =
        "echo made >/etc/made && echo more >>/etc/name && cat /etc/made /etc/name && mkdir /x";
    let ran = sh(&["--tmpfs-size=1M"], script);
    assert_eq!((ran.code(), ran.out()), (0, "made\nsmall\nmore\n".into()), "{}", ran.err());
    assert_ne!(sh(&[], "touch /etc/made").code(), 0, "without room of its own");
    let after = fs::metadata(tree(&env, "small").join("etc")).unwrap();
    assert_eq!((after.mtime(), after.uid()), (before.mtime(), 0));
    assert!(!tree(&env, "small").join("etc/made").exists());
}

#[test]
fn files_of_an_image_are_roots_readable_and_give_nobody_rights() {
    let env = Env::start();
    let archive = Archive::default()
        .add(EntryType::Directory, "dir", "", 0o7777, b"")
        .add(EntryType::Regular, "dir/setuid", "", 0o6755, b"x")
        .add(EntryType::Regular, "dir/secret", "", 0o600, b"x")
        .add(EntryType::Char, "dir/null", "", 0o666, b"")
        .add(EntryType::Fifo, "dir/fifo", "", 0o666, b"")
        .add(EntryType::Symlink, "dir/link", "secret", 0o777, b"");
    let said = import(&env, "modes", &archive.end(), &[]).unwrap();
    assert!(said.starts_with("2 devices, FIFOs or sockets were left out\n"), "{said}");
    let dir = tree(&env, "modes").join("dir");
    let mode = |name: &str| {
        let found = fs::symlink_metadata(dir.join(name)).unwrap();
        assert_eq!((found.uid(), found.gid()), (0, 0), "{name}");
        found.mode() & 0o7777
    };
    assert_eq!((mode("."), mode("setuid"), mode("secret")), (0o755, 0o755, 0o644));
    mode("link");
    assert!(!dir.join("null").exists() && !dir.join("fifo").exists());
    assert_eq!(fs::metadata(env.path("state/images")).unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn an_archive_that_is_too_much_or_cut_off_is_refused_and_leaves_nothing() {
    let env = Env::start();
    let refused = |bytes: &[u8], more: &[&str], words: &str| {
        let error = import(&env, "bad", bytes, more).unwrap_err();
        assert!(error.contains(words), "{words}: {error}");
        assert_eq!((count(&env, "names"), count(&env, "trees"), count(&env, "work")), (0, 0, 0));
    };
    let many = (0..600).fold(Archive::default(), |archive, i| archive.file(&format!("f{i}"), ""));
    refused(&many.end(), &["--max-files=500"], "--max-files");
    let large = Archive::default().add(EntryType::Regular, "zeros", "", 0o644, &vec![0; 32 << 20]);
    refused(&gzip(&large.clone().end()), &["--max-size=1M"], "--max-size");
    refused(&large.end(), &["--max-size=1M"], "--max-size");
    // A bomb beside the files: zeros that belong to what is left out.
    let bomb = Archive::default().add(EntryType::Fifo, "x", "", 0o644, &vec![0; 64 << 20]).end();
    refused(&gzip(&bomb), &["--max-size=1M", "--max-files=10"], "--max-size");
    let deep = Archive::default().file(&"d/".repeat(49), "x");
    import(&env, "deep", &deep.end(), &[]).unwrap();
    images(&env, &["remove", "deep"]).unwrap();
    let whole = Archive::default().file("a", "first").file("b", &"x".repeat(1000)).end();
    for blocks in 1..whole.len() / 512 - 1 {
        let cut = &whole[..blocks * 512];
        assert!(import(&env, "cut", cut, &[]).is_err(), "{blocks} blocks");
        assert!(
            import(&env, "cut", &gzip(&whole)[..20 + blocks], &[]).is_err(),
            "{blocks} of gzip"
        );
    }
    refused(b"", &[], "cut off");
    refused(&vec![b'x'; 2000], &[], "archive");
    for name in ["../a", "a/b", ".a", ""] {
        assert!(
            import(&env, name, &whole, &[]).unwrap_err().contains("name of an image"),
            "{name}"
        );
    }
    assert!(images(&env, &["import", "fifo", "/dev/null"]).unwrap_err().contains("regular file"));
}

#[test]
fn running_jobs_keep_their_image_when_it_is_replaced_or_removed() {
    let mut env = Env::start();
    let first = small(&env);
    import(&env, "app", &first, &[]).unwrap();
    let script = "while ! [ -e $JOB_DIR/go ]; do :; done; cat /etc/name; stat -c %n /usr/bin/id";
    let id = env.jobctl("user-a", &["start", "--image=app", "--", "sh", "-c", script]).id();
    fs::write(env.path("small/etc/name"), "second\n").unwrap();
    let old = tree(&env, "app");
    import(&env, "app", &small(&env), &[]).unwrap();
    let other = env.jobctl("user-a", &["start", "--image=app", "--", "cat", "/etc/name"]).id();
    assert_eq!(env.jobctl("user-a", &["logs", "-f", &other]).expect(0).out(), "second\n");
    let work = |id: &str| env.path("state-work").join(id);
    until("the second job's shim has ended", || (!work(&other).exists()).then_some(()));
    // The lock is the shim's, whatever becomes of the broker.
    env.kill_broker();
    images(&env, &["remove", "app"]).unwrap();
    assert!(old.exists() && count(&env, "trees") == 1, "in use");
    env.start_broker();
    let gone = env.jobctl("user-a", &["run", "--image=app", "--", "true"]);
    assert!(gone.err().contains("there is no image"), "{}", gone.err());
    let dir = env.path("state-work").join(&id);
    until("its directory is there", || fs::write(dir.join("go"), "").ok());
    assert_eq!(env.jobctl("user-a", &["wait", &id]).code(), 0);
    assert_eq!(env.jobctl("user-a", &["logs", &id]).expect(0).out(), "small\n/usr/bin/id\n");
    import(&env, "other", &first, &[]).unwrap();
    until("its files are gone", || {
        import(&env, "other", &first, &[]).unwrap(); // sweeps
        (!old.exists()).then_some(())
    });
    assert_eq!((count(&env, "trees"), count(&env, "work")), (1, 0));
    env.assert_clean();
}

#[test]
fn operators_and_roles_say_which_images_may_be_used() {
    let role = |name: &str, isolation: &str, program: &str| {
        format!(
            "[[role]]\nname = \"{name}\"\nidentities = [\"{name}\"]\n\
             allow = [\"start\", \"view\", \"logs\"]\n[role.isolation]\n{isolation}\n\
             [[role.program]]\npath = \"{program}\"\nargs = [\"...\"]\n"
        )
    };
    let policy = role("all", "", "/**")
        + &role("some", "images = [\"other:*\"]", "/**")
        + &role("listed", "images = [\"*\"]", "/usr/bin/cat");
    let sections = "[isolation]\nimages = [\"small*\", \"other:*\"]\n";
    let env = Env::builder().sections(sections).policy(&policy).start();
    let archive = small(&env);
    for name in ["small", "secret"] {
        import(&env, name, &archive, &[]).unwrap();
    }
    let run = |user: &str, name: &str| {
        env.jobctl(user, &["run", &format!("--image={name}"), "--", "cat", "/etc/name"])
    };
    assert_eq!(run("all", "small").expect(0).out(), "small\n");
    assert!(run("all", "secret").err().contains("isolation.images"));
    assert!(run("some", "small").err().contains("role some does not allow the image"));
    assert!(run("listed", "small").err().contains("lists programs of the host"));
    for (user, listed) in [("all", &["small"][..]), ("some", &[]), ("listed", &[])] {
        let info = env.jobctl(user, &["info", "-o", "json"]).json();
        let shown = info["images"].as_array().cloned().unwrap_or_default();
        assert!(shown.iter().map(|image| &image["name"]).eq(listed), "{user}: {shown:?}");
    }
}
