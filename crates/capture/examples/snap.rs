use std::time::Duration;
fn main() {
    let pid: i32 = std::env::args().nth(1).unwrap().parse().unwrap();
    let out = std::env::args().nth(2).unwrap();
    let facts = brant_kernel::facts::HostFacts::probe().unwrap();
    let options = brant_capture::Options {
        freeze_timeout: Duration::from_secs(3),
        stop: false,
        codec: brant_image::Codec::Raw,
        job: None,
    };
    let t = std::time::Instant::now();
    match brant_capture::checkpoint(&[brant_base::Pid(pid)], &facts, &options, || {
        Ok(std::fs::File::create(&out).unwrap())
    }) {
        Ok(c) => {
            println!("ok {:?} pause {:?} total {:?} threads {}", c.summary, c.pause, t.elapsed(), c.threads)
        }
        Err(e) => {
            println!("error {e} {e:?}");
            std::process::exit(1)
        }
    }
    let image = brant_image::Image::open(std::fs::File::open(&out).unwrap()).unwrap();
    println!("{:?}", image.verify());
    if std::env::args().nth(3).is_some() {
        println!("{:#?}", image.checkpoint().processes);
    }
}
