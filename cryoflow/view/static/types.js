// @ts-check
/**
 * What the viewer's addresses answer. Nothing is run here: other files import these types.
 *
 * @typedef {object} Tally
 * @property {number} n
 * @property {number} n_kept
 * @property {number | null} precision
 * @property {number | null} recall
 *
 * @typedef {object} State  What people decided on one micrograph.
 * @property {[number, number][]} decided  Pick and label.
 * @property {[number, number, number][]} added  x, y, and 1, or 0 where it was taken away again.
 * @property {"" | "finished" | "bad"} mark
 * @property {number | null} finished_at  Threshold at which it was finished.
 *
 * @typedef {object} Entry
 * @property {string} name
 * @property {number} n
 * @property {string[]} names
 * @property {string[]} status
 * @property {(number | null)[]} defocus_um
 * @property {number[]} n_picks
 * @property {(number | null)[]} doubt
 * @property {number} diameter_A
 * @property {boolean} diameter_known
 * @property {number} same_pick_diameters
 * @property {boolean} has_scores
 * @property {boolean} calibrated
 * @property {string} score_kind
 * @property {number} threshold
 * @property {number} score_low
 * @property {number} score_high
 * @property {number[]} histogram
 * @property {[number, number]} doubtful
 * @property {string[]} notes
 * @property {number[]} lowpass_A
 * @property {number} first_lowpass_A
 * @property {number} tile_px
 * @property {number} patch_px
 * @property {number} revision
 * @property {(number | null)[]} suggested
 * @property {{done: number, of: number} | null} scoring
 *
 * @typedef {object} Micrograph
 * @property {number} micrograph
 * @property {string} name
 * @property {string} problem
 * @property {number} ny
 * @property {number} nx
 * @property {number} levels
 * @property {number | null} pixel_size_A
 * @property {number} diameter_px
 * @property {boolean} mask  Whether a folder of masks has one of this micrograph.
 * @property {number[]} x
 * @property {number[]} y
 * @property {(number | null)[]} score
 * @property {number[]} label
 * @property {number[]} removed
 * @property {State} state
 * @property {{name: string, xy: [number, number][]}[]} others
 *
 * @typedef {object} Listed
 * @property {number[]} n_kept
 * @property {Record<string, string>} marks
 * @property {number[]} touched
 * @property {Tally} tally
 * @property {number} revision
 *
 * @typedef {object} Changes
 * @property {number} revision
 * @property {Record<string, State>} micrographs
 * @property {string[]} by_others
 * @property {{name: string, micrograph: number}[]} [others]
 * @property {boolean} [done]
 * @property {Tally} [tally]
 *
 * @typedef {object} Patch
 * @property {number} micrograph
 * @property {number} pick
 * @property {number | null} score
 * @property {boolean} kept
 * @property {boolean} decided
 *
 * @typedef {object} Saved
 * @property {string} entry
 * @property {number} n_picks
 * @property {number} n_micrographs
 * @property {number} accepted
 * @property {number} removed
 * @property {number} undecided
 * @property {{train: string, export: string}} next
 *
 * @typedef {object} Config
 * @property {string} entry
 * @property {string[]} with
 * @property {boolean} may_write
 * @property {string} name  The user's name where a proxy says it, else empty.
 * @property {number} micrograph
 * @property {boolean} can_train
 *
 * @typedef {{do: string, label?: number, picks?: Record<string, number[]>, micrograph?: number,
 *   added_xy_px?: Record<string, [number, number][]>,
 *   xy_px?: [number, number][], mark?: string, threshold?: number}} Action
 */
export {};
