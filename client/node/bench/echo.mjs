/** What piscina's thread does: give back what it was given. */
export default (payload) => payload;
