//! A tuple as an argument list, as `f(*args)` in Python.

/// A function that can be called once with the tuple `Args` as its arguments: what
/// [`apply`](crate::Pool::apply) takes.
///
/// Every `FnOnce` of up to twelve arguments is one. A function's argument types are known; a
/// closure's must be written.
///
/// ```
/// # let pool = parpool::Pool::new(1)?;
/// assert_eq!(pool.apply(f64::hypot, (3.0, 4.0))?, 5.0);
/// assert_eq!(pool.apply(|a: i32, b: i32| a - b, (3, 4))?, -1);
/// assert_eq!(pool.apply(|| "no arguments", ())?, "no arguments");
/// # Ok::<(), parpool::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be called with the arguments `{Args}`",
    note = "arguments are a tuple: `()` for none, `(a,)` for one; write the argument types of a closure"
)]
pub trait Apply<Args>: sealed::Apply<Args> {
    /// What the function returns.
    type Output;
    /// Calls `self(args.0, args.1, …)`.
    fn apply(self, args: Args) -> Self::Output;
}

/// A function that can be called again and again with tuples `Args` as its arguments: what
/// [`starmap`](crate::Pool::starmap) and
/// [`initializer`](crate::Builder::initializer) take.
///
/// Every `Fn` of up to twelve arguments is one.
///
/// ```
/// # let pool = parpool::Pool::new(1)?;
/// assert_eq!(pool.starmap(i32::pow, [(2, 3), (3, 2)])?, [8, 9]);
/// # Ok::<(), parpool::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be called with the arguments `{Args}`",
    note = "arguments are a tuple: `()` for none, `(a,)` for one; write the argument types of a closure"
)]
pub trait Star<Args>: sealed::Star<Args> {
    /// What the function returns.
    type Output;
    /// Calls `self(args.0, args.1, …)`.
    fn star(&self, args: Args) -> Self::Output;
}

mod sealed {
    pub trait Apply<Args> {}
    pub trait Star<Args> {}
}

macro_rules! tuples {
    ($(($($arg:ident)*))*) => {$(
        impl<F: FnOnce($($arg),*) -> R, R, $($arg),*> sealed::Apply<($($arg,)*)> for F {}
        impl<F: Fn($($arg),*) -> R, R, $($arg),*> sealed::Star<($($arg,)*)> for F {}

        impl<F, R, $($arg),*> Apply<($($arg,)*)> for F
        where
            F: FnOnce($($arg),*) -> R,
        {
            type Output = R;
            #[allow(non_snake_case)]
            fn apply(self, ($($arg,)*): ($($arg,)*)) -> R {
                self($($arg),*)
            }
        }

        impl<F, R, $($arg),*> Star<($($arg,)*)> for F
        where
            F: Fn($($arg),*) -> R,
        {
            type Output = R;
            #[inline]
            #[allow(non_snake_case)]
            fn star(&self, ($($arg,)*): ($($arg,)*)) -> R {
                self($($arg),*)
            }
        }
    )*};
}

tuples! {
    () (A) (A B) (A B C) (A B C D) (A B C D E) (A B C D E G) (A B C D E G H) (A B C D E G H I)
    (A B C D E G H I J) (A B C D E G H I J K) (A B C D E G H I J K L) (A B C D E G H I J K L M)
}
