import pytest

from clipflow.rewrite.english.cleaning import clean
from clipflow.rewrite.english.frames import unframe


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ("Red Wool Hat | ShopX", "red wool hat"),
        ("ShopX | Red Wool Hat", "red wool hat"),
        ("BLACK DOG ON THE BEACH - Stock Photo #123456", "black dog on the beach"),
        ("Sunset over the lake. #sunset #nature", "sunset over the lake"),
        ("Buy now! Leather handbag $49.99 free shipping", "leather handbag"),
        ("a dog - 50% off", "a dog"),
        ("Wooden chair SKU: AB-1234", "wooden chair"),
        ("a wooden chair 1920x1080", "a wooden chair"),
        ("red-wool_hat.jpg", "red wool hat"),
        ("A cat on a bed DSC_0042.jpg", "a cat on a bed"),
        ("cats &amp; dogs", "cats & dogs"),
        ("a a dog on the the beach", "a dog on the beach"),
        ("see https://example.org/x a dog", "see a dog"),
        ("A boat \u2013 Getty Images", "a boat"),
        ("a boat, photo by Jane Doe", "a boat"),
        ("Young woman - brown hair smiling at the camera",
         "young woman, brown hair smiling at the camera"),
        # what describes stays
        ("two dogs and 3 cats", "two dogs and 3 cats"),
        ("1967 Ford Mustang in a garage", "1967 Ford Mustang in a garage"),
        ("A 5-year-old boy", "a 5-year-old boy"),
        ("Eiffel Tower at night", "Eiffel Tower at night"),
        ("NASA rocket on a launch pad", "NASA rocket on a launch pad"),
        ("a well-lit t-shirt", "a well-lit t-shirt"),
        # nothing left: the caption itself
        ("IMG_2034.jpg", "IMG_2034.jpg"),
        ("stock photo", "stock photo"),
        ("", ""),
    ],
)  # fmt: skip
def test_clean(caption: str, cleaned: str) -> None:
    assert clean(caption) == cleaned


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("a photo of a dog", "a dog"),
        ("this picture shows two cats", "two cats"),
        ("here is a nice photo of a boat", "a boat"),
        ("there are two cats on a bed", "two cats on a bed"),
        ("a dog can be seen here", "a dog"),
        ("a photo", "a photo"),
        ("a photo album on a table", "a photo album on a table"),
    ],
)
def test_unframe(text: str, bare: str) -> None:
    assert unframe(text) == bare
