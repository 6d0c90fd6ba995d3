use brant_restore::*;
fn main() {
    let image =
        brant_image::Image::open(std::fs::File::open(std::env::args().nth(1).unwrap()).unwrap()).unwrap();
    let fd = |n: i32| {
        std::fs::File::options()
            .read(n == 0)
            .write(n > 0)
            .open(format!("/proc/self/fd/{n}"))
            .map(Into::into)
            .unwrap_or_else(|_| std::fs::File::open("/dev/null").unwrap().into())
    };
    let options = Options {
        detached: false,
        files: FilesPolicy::Strict,
        map_paths: vec![],
        stdio: [fd(0), fd(1), fd(2)],
        redirect_vdso: std::env::args().nth(2).is_some(),
    };
    let plan = plan(&image, &brant_kernel::facts::HostFacts::probe().unwrap(), &options).unwrap();
    let t = std::time::Instant::now();
    let r = restore(
        &image,
        plan,
        options,
        |h| {
            let mut b = [0u8];
            match nix::unistd::read(&h.go, &mut b) {
                Ok(1) => {}
                other => {
                    eprintln!("keeper: no go {other:?}");
                    std::process::exit(1)
                }
            }
            let root = h.root;
            loop {
                match nix::sys::wait::wait() {
                    Ok(s) => {
                        if h.root_is_child && s.pid() == Some(nix::unistd::Pid::from_raw(root.0)) {
                            eprintln!("keeper: root ended {s:?}");
                            std::process::exit(0)
                        }
                    }
                    Err(nix::errno::Errno::EINTR) => {}
                    Err(e) => {
                        let mut s = [0u8; 4];
                        let _ = nix::unistd::read(&h.status, &mut s);
                        eprintln!("keeper: {e} {s:?}");
                        std::process::exit(0)
                    }
                }
            }
        },
        |_| Ok(()),
    );
    match r {
        Ok(r) => eprintln!("restored {r:?} in {:?}", t.elapsed()),
        Err(e) => {
            eprintln!("FAILED {e} {e:?}");
            let mut s: &dyn std::error::Error = &e;
            while let Some(n) = s.source() {
                eprintln!("  caused by {n}");
                s = n;
            }
        }
    }
}
