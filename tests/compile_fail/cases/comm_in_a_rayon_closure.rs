use rayon::prelude::*;

fn main() {
    let _ = spmd::local(2, |world| {
        (0..4).into_par_iter().for_each(|step| world.send(&[step], 1).unwrap());
        Ok(())
    });
}
