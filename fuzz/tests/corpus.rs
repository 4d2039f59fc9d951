//! The committed corpus, without a fuzzer.

use std::fs;
use std::path::Path;

#[test]
fn every_target_takes_its_corpus() {
    for (name, target) in boltgate_fuzz::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(name);
        let mut count = 0;
        for file in fs::read_dir(&folder).expect(name) {
            let file = file.expect(name).path();
            target(&fs::read(&file).expect(name));
            count += 1;
        }
        assert!(count > 0, "no corpus for {name}");
    }
}
