;; A matrix of int8 rows times a vector, sixteen inputs at a time (product.js says the same in JavaScript).
;; product_wasm.js holds what wat2wasm makes of this file.
(module
  (import "page" "memory" (memory 1))
  ;; Where in memory rows, scales, inputs and outputs begin; inputs of a row, a multiple of 16, and outputs.
  (func (export "product")
    (param $row i32) (param $scale i32) (param $x i32) (param $y i32) (param $inputs i32) (param $outputs i32)
    (local $end i32) (local $last i32) (local $at i32) (local $weights v128) (local $half v128)
    (local $a v128) (local $b v128) (local $c v128) (local $d v128)
    (local.set $last (i32.add (local.get $y) (i32.shl (local.get $outputs) (i32.const 2))))
    (loop $rows
      (local.set $at (local.get $x))
      (local.set $end (i32.add (local.get $row) (local.get $inputs)))
      (local.set $a (v128.const f32x4 0 0 0 0))
      (local.set $b (local.get $a))
      (local.set $c (local.get $a))
      (local.set $d (local.get $a))
      (loop $columns
        (local.set $weights (v128.load align=1 (local.get $row)))
        (local.set $half (i16x8.extend_low_i8x16_s (local.get $weights)))
        (local.set $a (f32x4.add (local.get $a) (f32x4.mul
          (f32x4.convert_i32x4_s (i32x4.extend_low_i16x8_s (local.get $half))) (v128.load align=4 (local.get $at)))))
        (local.set $b (f32x4.add (local.get $b) (f32x4.mul
          (f32x4.convert_i32x4_s (i32x4.extend_high_i16x8_s (local.get $half)))
          (v128.load offset=16 align=4 (local.get $at)))))
        (local.set $half (i16x8.extend_high_i8x16_s (local.get $weights)))
        (local.set $c (f32x4.add (local.get $c) (f32x4.mul
          (f32x4.convert_i32x4_s (i32x4.extend_low_i16x8_s (local.get $half)))
          (v128.load offset=32 align=4 (local.get $at)))))
        (local.set $d (f32x4.add (local.get $d) (f32x4.mul
          (f32x4.convert_i32x4_s (i32x4.extend_high_i16x8_s (local.get $half)))
          (v128.load offset=48 align=4 (local.get $at)))))
        (local.set $at (i32.add (local.get $at) (i32.const 64)))
        (br_if $columns (i32.lt_u
          (local.tee $row (i32.add (local.get $row) (i32.const 16))) (local.get $end))))
      (local.set $a (f32x4.add
        (f32x4.add (local.get $a) (local.get $c)) (f32x4.add (local.get $b) (local.get $d))))
      (f32.store (local.get $y) (f32.mul (f32.load (local.get $scale)) (f32.add
        (f32.add (f32x4.extract_lane 0 (local.get $a)) (f32x4.extract_lane 2 (local.get $a)))
        (f32.add (f32x4.extract_lane 1 (local.get $a)) (f32x4.extract_lane 3 (local.get $a))))))
      (local.set $scale (i32.add (local.get $scale) (i32.const 4)))
      (br_if $rows (i32.lt_u
        (local.tee $y (i32.add (local.get $y) (i32.const 4))) (local.get $last))))))
